"""One generation as pages: written chunk by chunk, read by computing which page holds a key.

A chunk's record is put before its first page and again after its last. So whatever was ever written has a name that a
later process knows: to go on with it or to delete it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain, pairwise
from operator import le

from pydantic import ValidationError

from limaml.errors import DataError, StoreError
from limaml.failpoints import failpoint
from limaml.manifest import canonical_json
from limaml.online import pages
from limaml.online.backend import PLANS, SEALS, Backend, chunks_of
from limaml.online.records import Layout, Records, chunk_sum, encode_key
from limaml.online.store import Chunk, Generation
from limaml.online.writer_lease import Lease

_DELETE_AT_ONCE = 10_000  # page names


class PagedChunk(Chunk):
    """A chunk's record: what it holds, and between which keys, on how many pages; `written` once all are there."""

    first: str
    last: str
    pages: int
    bytes: int
    written: bool


def read_chunks(backend: Backend, generation: str) -> dict[int, PagedChunk]:
    """Every chunk that was begun, by index, in order.

    Raises:
        StoreError: a record is damaged.
    """
    try:
        found = backend.records(chunks_of(generation)).items()
        return {index: PagedChunk.model_validate_json(body) for index, body in sorted((int(k), v) for k, v in found)}
    except ValidationError as error:
        raise StoreError(f"{generation}: not a chunk's record: {error.errors()[0]['msg']}") from error


def page_names(generation: str, index: int, count: int) -> list[str]:
    """Names of a chunk's pages."""
    return [f"{generation}:{index}:{page}" for page in range(count)]


def delete_chunks(backend: Backend, generation: str, lease: Lease) -> None:
    """Delete all pages and chunk records of a generation; one that dies goes on where it stopped when repeated."""
    for index, chunk in read_chunks(backend, generation).items():
        names = page_names(generation, index, chunk.pages)
        for start in range(0, len(names), _DELETE_AT_ONCE):
            backend.delete_pages(names[start : start + _DELETE_AT_ONCE])
            failpoint("paged.discard.pages")
        backend.drop(chunks_of(generation), str(index), lease)
        failpoint("paged.discard.chunk")


class PagedReader:
    """A sealed generation. Immutable; holds of it only where each chunk begins."""

    def __init__(self, backend: Backend, generation: Generation, chunks: Sequence[PagedChunk]) -> None:
        self.generation = generation
        self._backend = backend
        self._chunks = chunks
        self._layout = Layout(generation.width, generation.dtype)
        self._first = [chunk.first.encode() for chunk in chunks]

    def get(self, task_ids: Sequence[str]) -> Records:
        keys = [encode_key(each) for each in task_ids]
        places = [self._place(key) for key in keys]
        wanted = list(dict.fromkeys(place for place in places if place is not None))
        found = dict(zip(wanted, self._read(wanted), strict=True))
        values = [
            None if place is None else pages.find(found[place], key) for key, place in zip(keys, places, strict=True)
        ]
        return Records(values, self._layout)

    def count(self) -> int:
        return sum(chunk.rows for chunk in self._chunks)

    def rows(self, index: int) -> tuple[list[bytes], list[bytes]]:
        """Keys and values of a chunk as they are stored, in key order.

        Raises:
            StoreError: a page is missing or damaged, or holds a key that no reader would look for there.
        """
        count = self._chunks[index].pages
        names = page_names(self.generation.name, index, count)
        found: list[tuple[bytes, bytes]] = []
        for number, page in enumerate(self._read(names, newest=True)):
            held = list(pages.rows(page))
            if any(pages.page_of(key, count) != number for key, _ in held):
                raise StoreError(f"{names[number]} holds keys of another page: the store changed it; publish again")
            found += held
        found.sort()
        return [key for key, _ in found], [value for _, value in found]

    def close(self) -> None:
        """Nothing is held open."""

    def _place(self, key: bytes) -> str | None:
        index = bisect_right(self._first, key) - 1
        if index < 0:
            return None
        return f"{self.generation.name}:{index}:{pages.page_of(key, self._chunks[index].pages)}"

    def _read(self, names: Sequence[str], newest: bool = False) -> list[bytes]:
        found = self._backend.read_pages(names, newest)
        present = [page for page in found if page is not None]
        if len(present) < len(names):
            raise StoreError(
                f"page {names[found.index(None)]} and {len(names) - len(present) - 1} more of {len(names)} are gone: "
                "the generation was collected, or the store lost or evicted it; read the current release again, "
                "and roll back or publish if it is this one"
            )
        return present


class PagedWriter:
    """A generation in the making, under a lease."""

    def __init__(self, backend: Backend, plan: Generation, lease: Lease) -> None:
        self._backend = backend
        self._plan = plan
        self._lease = lease
        self._kind = chunks_of(plan.name)
        self._keep_only_this_plan(canonical_json(plan.model_dump(mode="json")))
        self._records = read_chunks(backend, plan.name)
        self.chunks = {index: _public(each) for index, each in self._records.items() if each.written}
        self.sealed = False

    def _keep_only_this_plan(self, body: bytes) -> None:
        if self._backend.record(PLANS, self._plan.name) == body:
            return
        if not self._backend.retire(self._plan.name, self._lease):
            raise StoreError(f"{self._plan.name} is being served and can't be written again with another plan")
        delete_chunks(self._backend, self._plan.name, self._lease)
        self._backend.put(PLANS, self._plan.name, body, self._lease)
        failpoint("paged.begin.planned")

    def write(self, index: int, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        chunk = Chunk(rows=len(keys), sha256=chunk_sum(keys, values))
        if (written := self.chunks.get(index)) is not None:
            if written != chunk:
                raise StoreError(f"{self._plan.name}: chunk {index} was written before with other content")
            return
        before = self._records.get(index - 1)
        self._check_order(index, keys, before.last.encode() if before else b"")
        made = pages.split(keys, values, self._backend.page_bytes, self._backend.maximum_page_bytes)
        record = PagedChunk(
            rows=chunk.rows,
            sha256=chunk.sha256,
            first=keys[0].decode(),
            last=keys[-1].decode(),
            pages=len(made),
            bytes=sum(map(len, made)),
            written=False,
        )
        names = page_names(self._plan.name, index, len(made))
        begun = self._records.get(index)
        if begun is not None and begun.pages > record.pages:
            self._backend.delete_pages(page_names(self._plan.name, index, begun.pages)[record.pages :])
        self._put(index, record)
        failpoint("paged.chunk.begun")
        self._backend.write_pages(dict(zip(names, made, strict=True)))
        failpoint("paged.chunk.stored")
        self._put(index, record.model_copy(update={"written": True}))
        failpoint("paged.chunk.written")
        self.chunks[index] = chunk

    def seal(self) -> Generation:
        if sorted(self.chunks) != sorted(self._records):
            raise StoreError(f"{self._plan.name}: chunks were begun and not written; write them before sealing")
        records = [self._records[index] for index in sorted(self.chunks)]
        # Whoever wrote a chunk of several writers' may not have known the one before it.
        for before, after in pairwise(records):
            self._check_order(self._kind, [after.first.encode()], before.last.encode())
        sealed = self._plan.model_copy(
            update={
                "rows": sum(each.rows for each in records),
                "bytes": sum(each.bytes for each in records),
                "sealed_at": datetime.now(UTC),
            }
        )
        failpoint("paged.seal.counted")
        self._backend.put(SEALS, sealed.name, sealed.model_dump_json().encode(), self._lease)
        failpoint("paged.seal.written")
        self.sealed = True
        return sealed.model_copy(update={"chunks": tuple(map(_public, records))})

    def _check_order(self, index: int | str, keys: Sequence[bytes], last: bytes) -> None:
        wrong = sum(map(le, keys, chain([last], keys)))
        if wrong or not keys:
            raise DataError(
                f"{wrong} task keys of chunk {index} are not above the one before: the embeddings are not ordered by "
                "task, or name a task twice; run the stage that writes them again"
            )

    def _put(self, index: int, record: PagedChunk) -> None:
        self._backend.put(self._kind, str(index), record.model_dump_json().encode(), self._lease)
        self._records[index] = record


def _public(record: PagedChunk) -> Chunk:
    return Chunk(rows=record.rows, sha256=record.sha256)
