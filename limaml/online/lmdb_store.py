"""The embedded online store: one LMDB environment per generation, one pointer file flipped by rename.

<path>/<application>/
    current.json                       the pointer: the current release
    releases/0000000001.json           every release there has been
    lock                               held while the pointer moves or a generation is started or deleted
    generations/<name>/data.mdb        keys → values, and the sums of the chunks written so far
    generations/<name>/generation.json the seal, written last; from then on nothing here changes
"""

import fcntl
import itertools
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from urllib.parse import urlparse

import lmdb
from pydantic import ValidationError

from limaml import storage
from limaml.errors import DataError, ReleaseConflict, StorageError, StoreError
from limaml.manifest import canonical_json
from limaml.online.records import Records, chunk_sum, decode, encode_key
from limaml.online.store import Chunk, Generation, Release, Writer

log = logging.getLogger(__name__)

_SEAL = "generation.json"
_DATA = "data.mdb"
_EMBEDDINGS = b"embeddings"
_CHUNKS = b"chunks"
_PLAN = b"plan"
_FIRST_MAP_BYTES = 64 << 20


@contextmanager
def _store_errors(action: str, where: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, lmdb.Error, StorageError) as error:
        raise StoreError(
            f"can't {action} {where}: {error}; the current release is unchanged. "
            "Free space or fix permissions and run again: finished work is kept"
        ) from error


class LmdbReader:
    """A sealed generation. Immutable, so it is opened without locks and shared freely between threads."""

    def __init__(self, directory: Path, generation: Generation) -> None:
        self.generation = generation
        self._directory = directory
        with _store_errors("read", directory):
            # Pages are mapped: a file that lost its tail would kill the process on the first touch, so look before.
            size = (directory / _DATA).stat().st_size
            if size != generation.bytes:
                raise StoreError(
                    f"{directory / _DATA}: {size} bytes, its seal says {generation.bytes}; "
                    "the generation is damaged: roll back, then publish again"
                )
            self._environment = lmdb.open(
                str(directory), readonly=True, lock=False, create=False, readahead=False, max_dbs=2
            )
            self._embeddings = self._environment.open_db(_EMBEDDINGS, create=False)

    def get(self, task_ids: Sequence[str]) -> Records:
        keys = [encode_key(each) for each in task_ids]
        with _store_errors("read", self._directory), self._environment.begin(db=self._embeddings) as transaction:
            values = [transaction.get(key) for key in keys]
        return decode(values, self.generation.width, self.generation.dtype)

    def count(self) -> int:
        with _store_errors("read", self._directory), self._environment.begin() as transaction:
            return transaction.stat(self._embeddings)["entries"]

    def chunk_sums(self) -> Iterator[str]:
        """Sums of the rows as they are stored, chunk by chunk; rows beyond the last chunk come as one more."""
        with _store_errors("read", self._directory), self._environment.begin(db=self._embeddings) as transaction:
            rows = iter(transaction.cursor())
            for size in [*(chunk.rows for chunk in self.generation.chunks), None]:
                part = list(itertools.islice(rows, size))
                if part or size is not None:
                    yield chunk_sum([key for key, _ in part], [value for _, value in part])

    def close(self) -> None:
        self._environment.close()


class LmdbWriter:
    """A generation in the making. A chunk and the record that it was written are one transaction."""

    def __init__(self, directory: Path, plan: Generation) -> None:
        self._directory = directory
        self._plan = plan
        self._environment = lmdb.open(str(directory), map_size=_FIRST_MAP_BYTES, max_dbs=2, metasync=False)
        self._embeddings = self._environment.open_db(_EMBEDDINGS)
        self._records = self._environment.open_db(_CHUNKS)
        self._keep_only_this_plan(canonical_json(plan.model_dump(mode="json")))
        self.chunks = self._written()

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
        with _store_errors("write", self._directory):
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
                transaction.put(index.to_bytes(8), chunk.model_dump_json().encode(), db=self._records)
        except lmdb.MapFullError:
            return False
        return True

    def seal(self) -> Generation:
        with _store_errors("seal", self._directory):
            with self._environment.begin() as transaction:
                tasks = transaction.stat(self._embeddings)["entries"]
            self._environment.sync(True)
            self.close()
            sealed = self._plan.model_copy(
                update={
                    "tasks": tasks,
                    "chunks": tuple(self.chunks[index] for index in sorted(self.chunks)),
                    "bytes": (self._directory / _DATA).stat().st_size,
                    "sealed_at": datetime.now(UTC),
                }
            )
            storage.write_bytes(str(self._directory / _SEAL), sealed.model_dump_json(indent=2).encode() + b"\n")
        return sealed

    def close(self) -> None:
        self._environment.close()


class LmdbStore:
    """See the module's text."""

    def __init__(self, url: str, application: str) -> None:
        self.url = url
        self.application = application
        self._root = Path(urlparse(url).path) / application

    def current(self) -> Release | None:
        return self._release(self._root / "current.json")

    def releases(self) -> list[Release]:
        current = self.current()
        # A file above the current number is what a killed flip left: it never became a release.
        numbers = range(current.number, 0, -1) if current else ()
        found = [self._release(self._record(number)) for number in numbers]
        return [release for release in found if release is not None]

    def flip(self, release: Release) -> None:
        with self._locked(), _store_errors("flip the pointer of", self._root):
            current = self.current()
            number = current.number if current else 0
            if number != release.number - 1:
                raise ReleaseConflict(
                    f"{self.url}: the current release is number {number}, not {release.number - 1} as when this "
                    "publish began; another one came first: look at `limaml release list`, then run again"
                )
            body = release.model_dump_json(indent=2).encode() + b"\n"
            storage.write_bytes(str(self._record(release.number)), body)
            storage.write_bytes(str(self._root / "current.json"), body)

    def generations(self) -> list[str]:
        with _store_errors("list", self._root):
            return storage.list_directories(str(self._root / "generations"))

    def sealed(self, name: str) -> Generation | None:
        path = self._directory(name) / _SEAL
        with _store_errors("read", path):
            if not path.exists():
                return None
            try:
                return Generation.model_validate_json(path.read_bytes())
            except ValidationError as error:
                raise StoreError(f"{path}: not a generation's seal: {error.errors()[0]['msg']}") from error

    @contextmanager
    def begin(self, plan: Generation) -> Iterator[Writer]:
        directory = self._directory(plan.name)
        with self._locked():
            directory.mkdir(parents=True, exist_ok=True)
            push = (directory / "push.lock").open("w")
            if not _try_lock(push):
                push.close()
                raise StoreError(f"{directory}: another process is writing this generation; wait for it to end")
        with push:
            with _store_errors("write", directory):
                writer = LmdbWriter(directory, plan)
            try:
                yield writer
            finally:
                writer.close()

    def open(self, name: str) -> LmdbReader:
        sealed = self.sealed(name)
        if sealed is None:
            raise StoreError(f"{self._directory(name)}: no sealed generation there; publish again")
        return LmdbReader(self._directory(name), sealed)

    def audit(self, name: str) -> None:
        reader = self.open(name)
        try:
            expected = [chunk.sha256 for chunk in reader.generation.chunks]
            for index, found in enumerate(reader.chunk_sums()):
                if index >= len(expected) or found != expected[index]:
                    raise StoreError(
                        f"{self._directory(name)}: chunk {index} reads back with SHA-256 {found[:12]}…, not the one "
                        "it was written with; the disk changed it: publish again"
                    )
        finally:
            reader.close()

    def discard(self, name: str) -> bool:
        directory = self._directory(name)
        with self._locked(), _store_errors("delete", directory):
            push = directory / "push.lock"
            if push.exists():
                with push.open("w") as stream:
                    if not _try_lock(stream):
                        return False
            # Without its seal it is no generation: a delete that dies half-way leaves nothing that could be read.
            (directory / _SEAL).unlink(missing_ok=True)
            if directory.exists():
                shutil.rmtree(directory)
        return True

    def _directory(self, name: str) -> Path:
        return self._root / "generations" / name

    def _record(self, number: int) -> Path:
        return self._root / "releases" / f"{number:010d}.json"

    def _release(self, path: Path) -> Release | None:
        with _store_errors("read", path):
            try:
                return Release.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                return None
            except ValidationError as error:
                raise StoreError(f"{path}: not a release: {error.errors()[0]['msg']}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with _store_errors("lock", self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            stream = (self._root / "lock").open("w")
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _try_lock(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
