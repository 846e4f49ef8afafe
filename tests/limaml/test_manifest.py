from datetime import UTC, datetime
from pathlib import Path

import pytest

from limaml import storage
from limaml.errors import DataError, IntegrityError
from limaml.manifest import (
    Manifest,
    canonical_json,
    file_entry,
    file_uri,
    find_manifest,
    fingerprint,
    read_manifest,
    verify_files,
    write_manifest,
)


def written(directory: Path) -> Manifest:
    (directory / "part.txt").write_text("content")
    manifest = Manifest(
        kind="task_set",
        application="small",
        fingerprint="f",
        config_hash="c",
        files=[file_entry(directory / "part.txt", directory, rows=1)],
        counts={"rows": 1},
        details={"nested": {"ratio": 0.1}},
    )
    write_manifest(directory, manifest)
    return manifest


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    back = read_manifest(str(tmp_path), "task_set")
    assert back == manifest
    assert back.digest == manifest.digest
    verify_files(str(tmp_path), back)


def test_the_digest_is_of_what_was_written_not_of_when_or_from_what(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    for change in (
        {"created_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"inputs": {"data": "touched"}},
        {"fingerprint": "other"},
        {"config_hash": "other"},
    ):
        assert manifest.model_copy(update=change).digest == manifest.digest
    assert manifest.model_copy(update={"counts": {"rows": 2}}).digest != manifest.digest


def test_another_kind_or_none_is_a_data_error(tmp_path: Path) -> None:
    assert find_manifest(str(tmp_path)) is None
    with pytest.raises(DataError, match="has not finished"):
        read_manifest(str(tmp_path))
    written(tmp_path)
    with pytest.raises(DataError, match="holds 'task_set', but 'model' is needed"):
        read_manifest(str(tmp_path), "model")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        '{"format": 1',
        '{"format": 99, "kind": "x", "application": "a", "fingerprint": "f", "config_hash": "c"}',
        '{"kind": "x", "surprise": 1}',
    ],
)
def test_a_broken_manifest_is_a_data_error_naming_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / storage.MANIFEST).write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json: not a manifest"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("damage", ["", "c0ntent", "content and more"])
def test_changed_bytes_are_found(tmp_path: Path, damage: str) -> None:
    manifest = written(tmp_path)
    (tmp_path / "part.txt").write_text(damage)
    with pytest.raises(IntegrityError, match=r"part\.txt: SHA-256 is"):
        verify_files(str(tmp_path), manifest)
    (tmp_path / "part.txt").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        verify_files(str(tmp_path), manifest)


def test_an_entry_may_lie_elsewhere(tmp_path: Path) -> None:
    entry = written(tmp_path).files[0]
    assert file_uri("s3://bucket/x", entry) == "s3://bucket/x/part.txt"
    assert file_uri("s3://bucket/x", entry.model_copy(update={"path": "file:///y/part.txt"})) == "file:///y/part.txt"


def test_a_fingerprint_does_not_depend_on_order_and_does_on_every_value() -> None:
    assert fingerprint(a=1, b={"x": 1, "y": 2}) == fingerprint(b={"y": 2, "x": 1}, a=1)
    assert len({fingerprint(a=1), fingerprint(a=2), fingerprint(b=1), fingerprint(a="1"), fingerprint(a=[1])}) == 5
    assert canonical_json({"b": 1, "a": [1.5, None]}) == b'{"a":[1.5,null],"b":1}'
