"""The embedded online store: one LMDB environment per generation, one pointer file flipped by rename.

<path>/<application>/
    current.json                       the pointer: the current release
    releases/0000000001.json           every release there has been
    lock                               held while the pointer moves or a generation is started or deleted
    generations/<name>/data.mdb        keys → values, and the sums of the chunks written so far
    generations/<name>/generation.json the seal, written last; from then on nothing here changes
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlparse

from pydantic import ValidationError

from limaml import storage
from limaml.errors import ReleaseConflict, StoreError
from limaml.failpoints import failpoint
from limaml.online.lmdb_generation import DATA, SEAL, LmdbReader, LmdbWriter, store_errors, sync_directory, write_whole
from limaml.online.store import Generation, Release, Writer


class LmdbStore:
    """See the module's text."""

    takes_several_writers = False

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
        with self._locked(), store_errors("flip the pointer of", self._root):
            current = self.current()
            number = current.number if current else 0
            if number != release.number - 1:
                raise ReleaseConflict(
                    f"{self.url}: the current release is number {number}, not {release.number - 1} as when this "
                    "publish began; another one came first: look at `limaml release list`, then run again"
                )
            if self.sealed(release.generation) is None:
                raise StoreError(f"{self.url}: generation {release.generation} was deleted meanwhile: publish again")
            body = release.model_dump_json(indent=2).encode() + b"\n"
            failpoint("lmdb.flip.checked")
            record = self._record(release.number)
            write_whole(record, body)
            failpoint("lmdb.flip.recorded")
            # The pointer is a second name of the record, so that its content is on disk already.
            pointer = self._root / ".current.json.new"
            pointer.unlink(missing_ok=True)
            pointer.hardlink_to(record)
            failpoint("lmdb.flip.linked")
            pointer.replace(self._root / "current.json")
            failpoint("lmdb.flip.pointed")
            sync_directory(self._root)
            failpoint("lmdb.flip.synced")

    def generations(self) -> list[str]:
        with store_errors("list", self._root):
            return storage.list_directories(str(self._root / "generations"))

    def sealed(self, name: str) -> Generation | None:
        path = self._directory(name) / SEAL
        with store_errors("read", path):
            if not path.exists():
                return None
            try:
                return Generation.model_validate_json(path.read_bytes())
            except ValidationError as error:
                raise StoreError(f"{path}: not a generation's seal: {error.errors()[0]['msg']}") from error

    @contextmanager
    def begin(self, plan: Generation, together: bool = False) -> Iterator[Writer]:
        directory = self._directory(plan.name)
        with self._locked():
            directory.mkdir(parents=True, exist_ok=True)
            failpoint("lmdb.begin.made")
            push = (directory / "push.lock").open("w")
            if not _try_lock(push):
                push.close()
                raise StoreError(f"{directory}: another process is writing this generation; wait for it to end")
        with push:
            with store_errors("write", directory):
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
        with self._locked(), store_errors("delete", directory):
            current = self.current()
            if current is not None and current.generation == name:
                return False
            push = directory / "push.lock"
            if push.exists():
                with push.open("w") as stream:
                    if not _try_lock(stream):
                        return False
            # Without its seal it is no generation: a delete that dies half-way leaves nothing that could be read.
            failpoint("lmdb.discard.locked")
            (directory / SEAL).unlink(missing_ok=True)
            failpoint("lmdb.discard.unsealed")
            (directory / DATA).unlink(missing_ok=True)
            failpoint("lmdb.discard.half")
            if directory.exists():
                shutil.rmtree(directory)
            failpoint("lmdb.discard.deleted")
        return True

    def _directory(self, name: str) -> Path:
        return self._root / "generations" / name

    def _record(self, number: int) -> Path:
        return self._root / "releases" / f"{number:010d}.json"

    def _release(self, path: Path) -> Release | None:
        with store_errors("read", path):
            try:
                return Release.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                return None
            except ValidationError as error:
                raise StoreError(f"{path}: not a release: {error.errors()[0]['msg']}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with store_errors("lock", self._root):
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
