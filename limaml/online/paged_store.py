"""An online store over a network, whatever the technology below it: generations as pages, releases as records."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from limaml.errors import ReleaseConflict, StoreError
from limaml.failpoints import failpoint
from limaml.online.backend import PLANS, RELEASES, SEALS, Backend, Flip
from limaml.online.paged_generation import PagedReader, PagedWriter, delete_chunks, read_chunks
from limaml.online.records import chunk_sum
from limaml.online.store import Chunk, Generation, Release, Writer
from limaml.online.writer_lease import hold


class PagedStore:
    """See the module's text."""

    takes_several_writers = True

    def __init__(self, url: str, application: str, backend: Backend) -> None:
        self.url = url
        self.application = application
        self._backend = backend

    def current(self) -> Release | None:
        body = self._backend.current()
        return None if body is None else self._release(body)

    def releases(self) -> list[Release]:
        current = self.current()
        found = map(self._release, self._backend.records(RELEASES).values())
        return sorted(
            (each for each in found if current and each.number <= current.number), key=lambda r: r.number, reverse=True
        )

    def flip(self, release: Release) -> None:
        failpoint("paged.flip.asked")
        try:
            outcome = self._backend.flip(release.number, release.generation, release.model_dump_json().encode())
        except StoreError:
            # The answer may have been lost on its way back, not the request on its way there.
            if self.current() == release:
                return
            raise
        failpoint("paged.flip.answered")
        if outcome is Flip.DONE:
            return
        current = self.current()
        if current == release:
            return  # a repeated request met what the first one did
        if outcome is Flip.UNSEALED:
            raise StoreError(f"{self.url}: generation {release.generation} was deleted meanwhile: publish again")
        raise ReleaseConflict(
            f"{self.url}: the current release is number {current.number if current else 0}, not {release.number - 1} "
            "as when this publish began; another one came first: look at `limaml release list`, then run again"
        )

    def generations(self) -> list[str]:
        return sorted(self._backend.records(PLANS))

    def sealed(self, name: str) -> Generation | None:
        body = self._backend.record(SEALS, name)
        if body is None:
            return None
        try:
            sealed = Generation.model_validate_json(body)
        except ValidationError as error:
            raise StoreError(f"{self.url}: {name} has a damaged seal: {error.errors()[0]['msg']}") from error
        chunks = read_chunks(self._backend, name).values()
        return sealed.model_copy(update={"chunks": tuple(Chunk(rows=c.rows, sha256=c.sha256) for c in chunks)})

    @contextmanager
    def begin(self, plan: Generation, together: bool = False) -> Iterator[Writer]:
        with hold(self._backend, plan.name, together) as lease:
            if lease is None:
                raise StoreError(f"{self.url}: another process is writing generation {plan.name}; wait for it to end")
            failpoint("paged.begin.leased")
            writer = PagedWriter(self._backend, plan, lease)
            yield writer
            if together and writer.sealed:
                self._backend.release(lease)

    def open(self, name: str) -> PagedReader:
        sealed = self.sealed(name)
        if sealed is None:
            raise StoreError(f"{self.url}: no sealed generation {name} there; publish again")
        return PagedReader(self._backend, sealed, list(read_chunks(self._backend, name).values()))

    def audit(self, name: str) -> None:
        reader = self.open(name)
        for index, chunk in enumerate(reader.generation.chunks):
            found = chunk_sum(*reader.rows(index))
            if found != chunk.sha256:
                raise StoreError(
                    f"{self.url}: {name}: chunk {index} reads back with SHA-256 {found[:12]}…, not the one "
                    "it was written with; the store changed it: publish again"
                )

    def discard(self, name: str) -> bool:
        with hold(self._backend, name) as lease:
            if lease is None or not self._backend.retire(name, lease):
                return False
            failpoint("paged.discard.retired")
            delete_chunks(self._backend, name, lease)
            self._backend.drop(PLANS, name, lease)
            failpoint("paged.discard.done")
        return True

    def _release(self, body: bytes) -> Release:
        try:
            return Release.model_validate_json(body)
        except ValidationError as error:
            raise StoreError(f"{self.url}: a release's record is damaged: {error.errors()[0]['msg']}") from error
