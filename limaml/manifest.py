"""The small JSON that names what a stage wrote: files, counts, sums, and what it was made from.

Manifests are what travels between steps (never the data), what makes a stage idempotent (its fingerprint says what it
was made from) and what readers check bytes against.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limaml import storage
from limaml.errors import DataError, IntegrityError

FORMAT: Literal[1] = 1


class FileEntry(BaseModel):
    """One file: `path` relative to the manifest, or a URI where the file lies elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    rows: int | None = None
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a stage wrote. `counts` are integers a person reads; `details` whatever else the next stage needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    kind: str
    application: str
    fingerprint: str
    config_hash: str
    files: list[FileEntry] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict, description="input name → digest of its manifest")
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def digest(self) -> str:
        """SHA-256 of what was written, not of what it was made from or when: equal digests mean equal content."""
        made_from = {"created_at", "inputs", "fingerprint", "config_hash"}
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude=made_from))).hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def fingerprint(**parts: Any) -> str:
    """SHA-256 over named parts (strings, numbers, lists, dicts): what an output was made from."""
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def file_entry(path: Path, directory: Path, rows: int | None = None) -> FileEntry:
    """The entry of a local file that lies below `directory`."""
    uri = storage.normalize(path)
    return FileEntry(
        path=str(path.relative_to(directory)), rows=rows, bytes=path.stat().st_size, sha256=storage.sha256(uri)
    )


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write a manifest into a directory in the making, last of all its files."""
    (directory / storage.MANIFEST).write_bytes(manifest_bytes(manifest))


def manifest_bytes(manifest: Manifest) -> bytes:
    """A manifest as its file holds it."""
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def find_manifest(uri: str) -> Manifest | None:
    """The manifest of a directory, or None where the directory is missing or incomplete."""
    return read_manifest(uri) if storage.exists(storage.join(uri, storage.MANIFEST)) else None


def read_manifest(uri: str, kind: str | None = None) -> Manifest:
    """The manifest of a complete directory.

    Raises:
        DataError: there is none, it is not of this format, or it is of another kind than asked for.
    """
    location = storage.join(uri, storage.MANIFEST)
    if not storage.exists(location):
        raise DataError(f"{uri}: no {storage.MANIFEST}; the stage that writes it has not finished")
    try:
        manifest = Manifest.model_validate_json(storage.read_bytes(location))
    except ValidationError as error:
        raise DataError(
            f"{location}: not a manifest of format {FORMAT}: {error.errors()[0]['msg']}; "
            f"delete {uri} to have it made anew"
        ) from error
    if kind is not None and manifest.kind != kind:
        raise DataError(f"{location}: holds {manifest.kind!r}, but {kind!r} is needed here")
    return manifest


def file_uri(directory_uri: str, entry: FileEntry) -> str:
    """Where a manifest's file lies."""
    return entry.path if "://" in entry.path else storage.join(directory_uri, entry.path)


def files_of(manifest: Manifest, definition: str = "") -> list[FileEntry]:
    """The files of one task definition, in a folder of its name; the first definition's lie outside of any."""
    return [entry for entry in manifest.files if entry.path.rpartition("/")[0] == definition]


def verify_files(directory_uri: str, manifest: Manifest) -> None:
    """Check every file's size and SHA-256.

    Raises:
        IntegrityError: a file is missing or differs from its entry.
    """
    for entry in manifest.files:
        verify_file(directory_uri, entry)


def verify_file(directory_uri: str, entry: FileEntry) -> None:
    """Check one file's SHA-256 against its entry.

    Raises:
        IntegrityError: it is missing or differs.
    """
    uri = file_uri(directory_uri, entry)
    if not storage.exists(uri):
        raise IntegrityError(f"{uri}: named by the manifest of {directory_uri} but missing; run that stage again")
    actual = storage.sha256(uri)
    if actual != entry.sha256:
        raise IntegrityError(
            f"{uri}: SHA-256 is {actual[:12]}…, the manifest of {directory_uri} says {entry.sha256[:12]}…; "
            "the file changed after it was written: run the stage that writes it again"
        )
