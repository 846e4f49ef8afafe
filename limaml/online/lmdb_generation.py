"""One generation in LMDB: its own environment, written once in key order, then read by memory map without locks."""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import lmdb

from limaml.errors import DataError, StorageError, StoreError
from limaml.failpoints import failpoint
from limaml.manifest import canonical_json
from limaml.online.mapped import MappedFile
from limaml.online.records import Layout, Records, chunk_sum, encode_key
from limaml.online.store import Chunk, Generation

SEAL = "generation.json"
DATA = "data.mdb"
_EMBEDDINGS = b"embeddings"
_CHUNKS = b"chunks"
_PLAN = b"plan"
_FIRST_MAP_BYTES = 64 << 20


@contextmanager
def store_errors(action: str, where: Path) -> Iterator[None]:
    """Turn what LMDB or the file system reports into a StoreError that names where and what to do."""
    try:
        yield
    except (OSError, lmdb.Error, StorageError) as error:
        raise StoreError(
            f"can't {action} {where}: {error}; the current release is unchanged. "
            "Free space or fix permissions and run again: finished work is kept"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file so that readers see the old or the new content, never a part; one writer at a time.

    The name beside it is fixed: what a killed writer left there, the next one takes over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    failpoint("lmdb.file.beside")
    beside.replace(path)
    failpoint("lmdb.file.written")


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class LmdbReader:
    """A sealed generation. Immutable, so it is opened without locks and shared freely between threads."""

    def __init__(self, directory: Path, generation: Generation) -> None:
        self.generation = generation
        self._directory = directory
        self._layout = Layout(generation.width, generation.dtype)
        with store_errors("read", directory):
            # Pages are mapped: a file that lost its tail would kill the process on the first touch, so look before.
            size = (directory / DATA).stat().st_size
            if size != generation.bytes:
                raise StoreError(
                    f"{directory / DATA}: {size} bytes, its seal says {generation.bytes}; "
                    "the generation is damaged: roll back, then publish again"
                )
            self._environment, self._mapped = MappedFile.open(directory / DATA, self._open)
            self._embeddings = self._environment.open_db(_EMBEDDINGS, create=False)
            # One for good: nothing will ever be written, and to begin and end one costs as much as to read a record.
            self._transaction = self._environment.begin(db=self._embeddings)
            self._one_at_a_time = Lock()

    def _open(self) -> lmdb.Environment:
        place = str(self._directory)
        return lmdb.open(place, readonly=True, lock=False, create=False, readahead=False, max_dbs=2)

    def get(self, task_ids: Sequence[str]) -> Records:
        get = self._transaction.get
        try:
            with self._one_at_a_time:
                values: list[Any] = [get(each.encode()) for each in task_ids]
        except lmdb.Error as error:
            _check_keys(task_ids)
            # Rather than around the read: a context manager of its own would cost as much.
            with store_errors("read", self._directory):
                raise error
        if None in values:
            _check_keys(task_ids)  # what is there has a key that could be written
        self._mapped.count(len(values))
        return Records(values, self._layout)

    def count(self) -> int:
        with store_errors("read", self._directory), self._environment.begin() as transaction:
            return transaction.stat(self._embeddings)["entries"]

    def chunk_sums(self) -> Iterator[str]:
        """Sums of the rows as they are stored, chunk by chunk; rows beyond the last chunk come as one more."""
        with store_errors("read", self._directory), self._environment.begin(db=self._embeddings) as transaction:
            rows = iter(transaction.cursor())
            for size in [*(chunk.rows for chunk in self.generation.chunks), None]:
                part = list(itertools.islice(rows, size))
                if part or size is not None:
                    yield chunk_sum([key for key, _ in part], [value for _, value in part])
                    self._mapped.let_go()

    def close(self) -> None:
        self._mapped.forget()
        self._environment.close()


def _check_keys(task_ids: Sequence[str]) -> None:
    for each in task_ids:
        encode_key(each)


class LmdbWriter:
    """A generation in the making. A chunk and the record that it was written are one transaction."""

    def __init__(self, directory: Path, plan: Generation) -> None:
        self._directory = directory
        self._plan = plan
        try:
            self._environment = self._open()
        except (lmdb.InvalidError, lmdb.CorruptedError):
            # A disk that was full when the file was made leaves half a header. No seal, so nothing of it counts.
            (directory / DATA).unlink()
            self._environment = self._open()
        failpoint("lmdb.begin.created")
        self._embeddings = self._environment.open_db(_EMBEDDINGS)
        self._records = self._environment.open_db(_CHUNKS)
        failpoint("lmdb.begin.empty")
        self._keep_only_this_plan(canonical_json(plan.model_dump(mode="json")))
        failpoint("lmdb.begin.planned")
        self.chunks = self._written()

    def _open(self) -> lmdb.Environment:
        return lmdb.open(str(self._directory), map_size=_FIRST_MAP_BYTES, max_dbs=2, metasync=False)

    def _keep_only_this_plan(self, plan: bytes) -> None:
        with self._environment.begin(write=True) as transaction:
            if transaction.get(_PLAN, db=self._records) != plan:
                transaction.drop(self._embeddings, delete=False)
                transaction.drop(self._records, delete=False)
                transaction.put(_PLAN, plan, db=self._records)

    def _written(self) -> dict[int, Chunk]:
        with self._environment.begin(db=self._records) as transaction:
            return {
                int.from_bytes(key): Chunk.model_validate_json(value)
                for key, value in transaction.cursor()
                if key != _PLAN
            }

    def write(self, index: int, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        chunk = Chunk(rows=len(keys), sha256=chunk_sum(keys, values))
        if (written := self.chunks.get(index)) is not None:
            if written != chunk:
                raise StoreError(f"{self._directory}: chunk {index} was written before with other content")
            return
        with store_errors("write", self._directory):
            while not self._put(index, chunk, keys, values):
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self.chunks[index] = chunk

    def _put(self, index: int, chunk: Chunk, keys: Sequence[bytes], values: Sequence[bytes]) -> bool:
        """Whether the chunk fitted the memory map; where not, nothing of it was written."""
        try:
            with self._environment.begin(write=True) as transaction:
                items = zip(keys, values, strict=True)
                _, added = transaction.cursor(self._embeddings).putmulti(items, append=True)
                if added != len(keys):
                    raise DataError(
                        f"{len(keys) - added} task keys of chunk {index} are not above the one before: the embeddings "
                        "are not ordered by task, or name a task twice; run the stage that writes them again"
                    )
                failpoint("lmdb.chunk.put")
                transaction.put(index.to_bytes(8), chunk.model_dump_json().encode(), db=self._records)
        except lmdb.MapFullError:
            return False
        failpoint("lmdb.chunk.committed")
        return True

    def seal(self) -> Generation:
        with store_errors("seal", self._directory):
            with self._environment.begin() as transaction:
                rows = transaction.stat(self._embeddings)["entries"]
            failpoint("lmdb.seal.counted")
            self._environment.sync(True)
            self.close()
            failpoint("lmdb.seal.synced")
            sealed = self._plan.model_copy(
                update={
                    "rows": rows,
                    "chunks": tuple(self.chunks[index] for index in sorted(self.chunks)),
                    "bytes": (self._directory / DATA).stat().st_size,
                    "sealed_at": datetime.now(UTC),
                }
            )
            write_whole(self._directory / SEAL, sealed.model_dump_json(indent=2).encode() + b"\n")
            sync_directory(self._directory)
            failpoint("lmdb.seal.written")
        return sealed

    def close(self) -> None:
        self._environment.close()
