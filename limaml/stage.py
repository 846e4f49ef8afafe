"""How every stage runs: skip when done, build beside, appear at once.

A stage is a function from input URIs and the application to a manifest at an output URI. Its fingerprint (inputs,
the configuration sections it reads, its own version) decides whether an existing output is already the answer.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limaml import storage
from limaml.config import Application
from limaml.errors import IntegrityError
from limaml.manifest import (
    FileEntry,
    Manifest,
    file_entry,
    find_manifest,
    fingerprint,
    manifest_bytes,
    verify_files,
    write_manifest,
)

log = logging.getLogger(__name__)


class Stage:
    """One run of a stage: what it reads, where it writes, and the manifest it owes.

    Args:
        kind: what is written (`validated`, `task_set`, `model`, `embeddings`, …).
        output: URI of the directory.
        application: the configuration.
        sections: names of the application's sections this stage reads; a change in others does not redo it.
        inputs: input name → manifest digest or any JSON value that identifies the input.
        version: raise it when the stage's code changes what it writes.
    """

    def __init__(
        self,
        kind: str,
        output: str,
        application: Application,
        sections: tuple[str, ...],
        inputs: dict[str, Any],
        version: int = 1,
    ) -> None:
        self.kind = kind
        self.output = storage.normalize(output)
        self.application = application
        self.inputs = inputs
        self.fingerprint = fingerprint(
            kind=kind,
            version=version,
            application=application.name,
            config=application.sections_hash(*sections),
            inputs=inputs,
        )

    def manifest(
        self,
        files: list[FileEntry],
        counts: dict[str, int],
        details: dict[str, Any] | None = None,
    ) -> Manifest:
        """The manifest of this run."""
        digests = {name: fingerprint(value=value) for name, value in self.inputs.items()}
        return Manifest(
            kind=self.kind,
            application=self.application.name,
            fingerprint=self.fingerprint,
            config_hash=self.application.config_hash,
            files=files,
            counts=counts,
            details=details or {},
            inputs=digests,
        )

    def run(self, build: Callable[[Path], Manifest], resumable: bool = False, start: str = "") -> Manifest:
        """Return the finished manifest, building it only if the output is not already made from the same things.

        An output whose files no longer match their sums is built again.

        `build` gets a local directory, writes its files there and returns `self.manifest(...)`. Where it is resumable,
        it meets there what an earlier run finished that set out from the same `start`: an identity of what spares work
        and changes nothing of what is owed.
        """
        if (existing := self.finished()) is not None:
            return existing
        started = self._start()
        resume_key = fingerprint(stage=self.fingerprint, start=start) if resumable else ""
        with storage.atomic_directory(self.output, resume_key) as directory:
            manifest = build(directory)
            write_manifest(directory, manifest)
        return self._end(manifest, started)

    def assemble(self, build: Callable[["Parts"], Manifest]) -> Manifest:
        """As `run`, for files that other machines write: they never pass through this one.

        `build` has the files written below `parts.uri`, which all of those machines see, says in `parts.sources` which
        of them becomes which file of the output, and returns the manifest. Parts lie there until the output is whole.
        """
        if (existing := self.finished()) is not None:
            return existing
        started, parts = self._start(), Parts(self.parts_uri)
        manifest = build(parts)
        storage.assemble(self.output, parts.sources, manifest_bytes(manifest))
        storage.delete(parts.uri)
        return self._end(manifest, started)

    @property
    def parts_uri(self) -> str:
        """Where other machines write what this stage assembles: beside its output, hidden, and of this fingerprint."""
        parent, _, name = self.output.rpartition("/")
        return f"{parent}/.{name}.{self.fingerprint[:16]}.parts"

    def finished(self) -> Manifest | None:
        """The manifest of an output that is made from the same things and whole; None where there is work to do."""
        existing = find_manifest(self.output)
        if existing is None or existing.fingerprint != self.fingerprint:
            return None
        try:
            verify_files(self.output, existing)
        except IntegrityError as error:
            log.warning("%s: %s", self.kind, error)
            return None
        log.info("%s: up to date at %s (%s)", self.kind, self.output, _spell(existing.counts))
        return existing

    def _start(self) -> float:
        log.info("%s: writing %s", self.kind, self.output)
        return time.monotonic()

    def _end(self, manifest: Manifest, started: float) -> Manifest:
        log.info("%s: done in %.1f s (%s)", self.kind, time.monotonic() - started, _spell(manifest.counts))
        return manifest


@dataclass
class Parts:
    """Files in the making that other machines write.

    Attributes:
        uri: of the directory below which they lie.
        sources: path of each file in the finished output → its URI.
    """

    uri: str
    sources: dict[str, str] = field(default_factory=dict)


def entries(directory: Path, rows: dict[str, int] | None = None, pattern: str = "*") -> list[FileEntry]:
    """Entries of the files of a directory in the making, by name; `rows` gives row counts by relative path."""
    known = rows or {}
    files = sorted(p for p in directory.rglob(pattern) if p.is_file() and not p.name.startswith("."))
    return [
        file_entry(path, directory, known.get(str(path.relative_to(directory))))
        for path in files
        if path.name != storage.MANIFEST
    ]


def _spell(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in counts.items())
