"""Workspaces by URI: `file://` and `s3://`, read through Arrow, written as whole directories.

A directory is complete when its `manifest.json` is there. On a file system a directory is built beside its place and
renamed; on S3, where nothing can be renamed, the manifest is uploaded last. Readers therefore never see half of one.
"""

import errno
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow.fs as pafs

from limaml.errors import ConfigError, StorageError

MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_COPIES_AT_ONCE = 16
_LARGEST_COPY = 5 << 30


def normalize(uri: str | Path) -> str:
    """A workspace URI in canonical form; a bare path becomes an absolute `file://` URI.

    Raises:
        ConfigError: the scheme is neither `file` nor `s3`.
    """
    text = str(uri)
    scheme = urlparse(text).scheme if "://" in text else ""
    if scheme == "s3":
        return text.rstrip("/")
    if scheme in ("", "file"):
        path = text.removeprefix("file://") if scheme else text
        return "file://" + str(Path(path).expanduser().absolute())
    raise ConfigError(f"{text!r}: a workspace is a path, file://… or s3://…, not {scheme}://")


def join(uri: str, *parts: str) -> str:
    """`uri` with path parts appended."""
    return "/".join([normalize(uri), *(part.strip("/") for part in parts)])


def local_path(uri: str) -> Path:
    """The path behind a `file://` URI.

    Raises:
        ConfigError: the URI is on another kind of storage.
    """
    text = normalize(uri)
    if not text.startswith("file://"):
        raise ConfigError(f"{text} must be on a local file system")
    return Path(text.removeprefix("file://"))


def is_local(uri: str) -> bool:
    """Whether a URI is on a local file system."""
    return normalize(uri).startswith("file://")


@cache
def _s3_filesystem() -> pafs.FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    # boto3 reads AWS_CA_BUNDLE by itself, Arrow SSL_CERT_FILE only.
    authorities = os.environ.get("AWS_CA_BUNDLE") or None
    return pafs.S3FileSystem(
        endpoint_override=endpoint, region=os.environ.get("AWS_REGION"), tls_ca_file_path=authorities
    )


@cache
def _s3_client() -> Any:
    import boto3

    return boto3.client("s3")


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The Arrow file system behind a URI and the path inside it."""
    text = normalize(uri)
    if text.startswith("file://"):
        return pafs.LocalFileSystem(), text.removeprefix("file://")
    return _s3_filesystem(), text.removeprefix("s3://")


@contextmanager
def storage_errors(uri: str, action: str) -> Iterator[None]:
    """Turn an operating-system failure into a StorageError that names the URI and what to do."""
    try:
        yield
    except OSError as error:
        hint = {
            errno.ENOSPC: "the disk is full: free space and run again, finished work is kept",
            errno.EDQUOT: "the quota is used up: free space and run again, finished work is kept",
            errno.EACCES: "permission denied: give this user write access or choose another workspace",
            errno.EROFS: "the file system is read-only: choose another workspace",
            errno.ENOENT: "it does not exist: check the URI",
        }.get(error.errno or 0, str(error))
        raise StorageError(f"can't {action} {uri}: {hint}") from error


def exists(uri: str) -> bool:
    """Whether a file or directory is there."""
    fs, path = filesystem(uri)
    with storage_errors(uri, "look at"):
        return fs.get_file_info(path).type != pafs.FileType.NotFound


def read_bytes(uri: str) -> bytes:
    """The whole of a small file.

    Raises:
        StorageError: it is missing or unreadable.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri, "read"), fs.open_input_stream(path) as stream:
        return stream.read()


def write_bytes(uri: str, data: bytes) -> None:
    """Write a small file so that readers see the old or the new content, never a part."""
    if is_local(uri):
        path = local_path(uri)
        with storage_errors(uri, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Pods that share a volume have process ids of their own, and so the same ones.
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
            try:
                with temporary.open("wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return
    fs, path = filesystem(uri)
    with storage_errors(uri, "write"), fs.open_output_stream(path) as stream:
        stream.write(data)


def create_exclusive(uri: str, data: bytes) -> bool:
    """Create a file only if nobody else has; False when it is there already. The base of leases."""
    if is_local(uri):
        path = local_path(uri)
        with storage_errors(uri, "create"):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written beside and hard-linked into place: whoever sees the file sees its whole content.
            descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(data)
                os.link(beside, path)
            except FileExistsError:
                return False
            finally:
                Path(beside).unlink()
        return True
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        _s3_client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict"):
            return False
        raise StorageError(f"can't create {uri}: {error}") from error
    except BotoCoreError as error:
        raise StorageError(f"can't create {uri}: {error}") from error
    return True


def delete(uri: str) -> None:
    """Remove a file or a directory tree; nothing happens when it is not there."""
    fs, path = filesystem(uri)
    # Somebody else may delete it at the same moment: gone is gone.
    with storage_errors(uri, "delete"), suppress(FileNotFoundError):
        kind = fs.get_file_info(path).type
        if kind == pafs.FileType.Directory:
            fs.delete_dir(path)
        elif kind == pafs.FileType.File:
            fs.delete_file(path)


def list_files(uri: str, suffix: str = "") -> list[pafs.FileInfo]:
    """Files below a directory whose path ends with `suffix`, by path; hidden ones left out."""
    fs, path = filesystem(uri)
    with storage_errors(uri, "list"):
        found = fs.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    base = len(path.rstrip("/")) + 1
    files = [
        info
        for info in found
        if info.type == pafs.FileType.File
        and info.path.endswith(suffix)
        and not any(part.startswith((".", "_")) for part in info.path[base:].split("/"))
    ]
    return sorted(files, key=lambda info: info.path)


def list_directories(uri: str) -> list[str]:
    """Names of the directories directly below a directory, sorted, hidden ones left out."""
    fs, path = filesystem(uri)
    with storage_errors(uri, "list"):
        found = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = [info.base_name for info in found if info.type == pafs.FileType.Directory]
    return sorted(name for name in names if not name.startswith("."))


def sha256(uri: str) -> str:
    """SHA-256 of a file, streamed."""
    if is_local(uri):
        # One small buffer, read into again and again.
        with storage_errors(uri, "read"), local_path(uri).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    fs, path = filesystem(uri)
    digest = hashlib.sha256()
    with storage_errors(uri, "read"), fs.open_input_stream(path) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def atomic_directory(uri: str, resume_key: str = "") -> Iterator[Path]:
    """Build a directory locally and make it appear at `uri` at once when the block ends well.

    With a `resume_key`, a block that was killed leaves its finished files for the next one with the same key (local
    workspaces only); without one, a failed block leaves nothing. Files in the making must have names that begin with a
    dot: those are never kept.
    """
    if not is_local(uri):
        with tempfile.TemporaryDirectory(prefix="limaml-") as temporary:
            yield Path(temporary)
            _upload(Path(temporary), uri)
        return
    target = local_path(uri)
    partial = target.with_name(f".{target.name}.{resume_key[:16] or 'new'}.partial")
    with storage_errors(uri, "write"):
        if partial.exists() and not resume_key:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        for leftover in sorted(partial.rglob(".*")):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)
    try:
        with storage_errors(uri, "write"):
            yield partial
            old = target.with_name(f".{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                target.rename(old)
            partial.rename(target)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        if not resume_key:
            shutil.rmtree(partial, ignore_errors=True)


def put(path: Path, uri: str) -> None:
    """Move a local file to a URI, where it appears at once and whole."""
    with storage_errors(uri, "write"):
        if is_local(uri):
            target = local_path(uri)
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
            shutil.move(path, beside)
            beside.replace(target)
            return
        fs, place = filesystem(uri)
        with path.open("rb") as source, fs.open_output_stream(place) as sink:
            shutil.copyfileobj(source, sink, _CHUNK)
        path.unlink()


def assemble(uri: str, sources: Mapping[str, str], manifest: bytes) -> None:
    """Make a directory of files that lie elsewhere in the same storage, path → URI, appear with its manifest.

    On S3 the files are copied inside the storage; on a file system they are linked.
    """
    if is_local(uri):
        with atomic_directory(uri) as directory:
            for path, source in sources.items():
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(local_path(source), directory / path)
            (directory / MANIFEST).write_bytes(manifest)
        return
    fs, target = filesystem(uri)
    with storage_errors(uri, "write"):
        if exists(join(uri, MANIFEST)):
            fs.delete_file(f"{target}/{MANIFEST}")
        with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
            copies = [
                pool.submit(_copy, fs, filesystem(source)[1], f"{target}/{path}") for path, source in sources.items()
            ]
            for copy in copies:
                copy.result()
        for info in list_files(uri):
            if info.path.removeprefix(target + "/") not in sources:
                fs.delete_file(info.path)
    write_bytes(join(uri, MANIFEST), manifest)


def _copy(fs: pafs.FileSystem, source: str, target: str) -> None:
    """Copy an object inside the storage; through this machine where it is larger than S3 copies in one request."""
    if (fs.get_file_info(source).size or 0) <= _LARGEST_COPY:
        fs.copy_file(source, target)
        return
    with fs.open_input_stream(source) as stream, fs.open_output_stream(target) as sink:
        shutil.copyfileobj(stream, sink, _CHUNK)


def _upload(directory: Path, uri: str) -> None:
    fs, path = filesystem(uri)
    with storage_errors(uri, "write"):
        if exists(join(uri, MANIFEST)):
            fs.delete_file(f"{path}/{MANIFEST}")
        names = sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file())
        for name in sorted(names, key=lambda name: name == MANIFEST):
            with (directory / name).open("rb") as source, fs.open_output_stream(f"{path}/{name}") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
        for info in list_files(uri):
            if info.path.removeprefix(path + "/") not in names:
                fs.delete_file(info.path)
