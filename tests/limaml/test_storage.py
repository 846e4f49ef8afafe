import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from limaml import storage
from limaml.errors import ConfigError, StorageError


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A workspace of each kind: what holds for one must hold for the other."""
    return f"file://{tmp_path}/root" if request.param == "file" else request.getfixturevalue("s3") + "/root"


def names(uri: str) -> list[str]:
    return [info.path.rpartition("root/")[2] for info in storage.list_files(uri)]


def test_uris_have_one_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.normalize("data/") == f"file://{tmp_path}/data"
    assert storage.normalize(tmp_path) == storage.normalize(f"file://{tmp_path}/") == f"file://{tmp_path}"
    assert storage.normalize("s3://bucket/x/") == "s3://bucket/x"
    assert storage.join("s3://bucket/x/", "/a/", "b") == "s3://bucket/x/a/b"
    assert storage.local_path(f"file://{tmp_path}/a") == tmp_path / "a"
    with pytest.raises(ConfigError, match="not gs://"):
        storage.normalize("gs://bucket")
    with pytest.raises(ConfigError, match="local file system"):
        storage.local_path("s3://bucket/x")


def test_bytes_round_trip_and_are_replaced(root: str) -> None:
    uri = storage.join(root, "deep", "file.bin")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert storage.sha256(uri) == "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3"
    assert names(root) == ["deep/file.bin"]
    assert storage.list_directories(root) == ["deep"]
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def test_a_missing_file_is_a_storage_error_naming_it(root: str) -> None:
    with pytest.raises(StorageError, match=r"nothing\.bin"):
        storage.read_bytes(storage.join(root, "nothing.bin"))
    assert storage.list_files(storage.join(root, "nowhere")) == []
    assert storage.list_directories(storage.join(root, "nowhere")) == []


def test_lists_leave_out_hidden_files_and_other_suffixes(root: str) -> None:
    for name in ("b.parquet", "a.parquet", "c.txt", ".hidden.parquet", "_temporary/d.parquet", "x/.y/e.parquet"):
        storage.write_bytes(storage.join(root, name), b"-")
    assert [info.path.rpartition("/")[2] for info in storage.list_files(root, ".parquet")] == ["a.parquet", "b.parquet"]
    storage.delete(root)
    assert storage.list_files(root) == []


def test_only_one_of_many_creates_a_file(root: str) -> None:
    uri = storage.join(root, "leases", "day.json")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.create_exclusive(uri, str(i).encode()), range(8)))
    assert sum(won) == 1
    assert storage.read_bytes(uri) == str(won.index(True)).encode()
    assert names(root) == ["leases/day.json"]


def test_a_directory_appears_whole_and_replaces_the_old_one(root: str) -> None:
    uri = storage.join(root, "out")
    for generation in ("old", "new"):
        with storage.atomic_directory(uri) as directory:
            (directory / f"{generation}.txt").write_text(generation)
            (directory / "sub").mkdir()
            (directory / "sub" / "part.txt").write_text(generation)
            (directory / storage.MANIFEST).write_text("{}")
            assert not storage.exists(storage.join(uri, f"{generation}.txt"))
    assert names(root) == ["out/manifest.json", "out/new.txt", "out/sub/part.txt"]
    assert storage.read_bytes(storage.join(uri, "sub/part.txt")) == b"new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failed_block_changes_nothing(root: str, failure: type[BaseException]) -> None:
    uri = storage.join(root, "out")
    with storage.atomic_directory(uri) as directory:
        (directory / storage.MANIFEST).write_text("first")

    def fail() -> None:
        with storage.atomic_directory(uri) as directory:
            (directory / storage.MANIFEST).write_text("second")
            raise failure

    with pytest.raises(failure):
        fail()
    assert storage.read_bytes(storage.join(uri, storage.MANIFEST)) == b"first"
    assert storage.list_directories(root) == ["out"]


def test_a_killed_block_is_resumed_by_its_key_without_half_files(tmp_path: Path) -> None:
    uri = str(tmp_path / "out")

    def killed() -> None:
        with storage.atomic_directory(uri, "key") as directory:
            (directory / "done.txt").write_text("done")
            (directory / ".half.txt").write_text("ha")
            (directory / ".buckets" / "deep").mkdir(parents=True)
            (directory / ".buckets" / "deep" / ".x").write_text("tmp")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    with storage.atomic_directory(uri, "other key") as directory:
        assert list(directory.iterdir()) == []
    with storage.atomic_directory(uri, "key") as directory:
        assert [path.name for path in directory.iterdir()] == ["done.txt"]
    assert (tmp_path / "out" / "done.txt").read_text() == "done"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_workspace_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="permission denied"):
        storage.write_bytes(str(tmp_path / "x" / "file"), b"")


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with storage.atomic_directory(str(tmp_path / "out")) as directory:
            (directory / "begun").write_text("x")
            with Path("/dev/full").open("w") as stream:
                stream.write("more")

    with pytest.raises(StorageError, match="the disk is full: free space and run again"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_workspace_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/out"):
        storage.write_bytes(str(tmp_path / "file" / "out"), b"")


def test_an_unknown_bucket_is_a_storage_error(s3: str) -> None:
    with pytest.raises(StorageError):
        storage.create_exclusive("s3://no-such-bucket/x", b"")
    with pytest.raises(StorageError):
        storage.write_bytes("s3://no-such-bucket/x", b"")


def test_missing_credentials_are_a_storage_error(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    storage._s3_client.cache_clear()
    with pytest.raises(StorageError, match="credentials"):
        storage.create_exclusive(s3 + "/x", b"")
