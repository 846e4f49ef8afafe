"""The embedded store under kill -9, full disks, damaged files and readers that never stop reading."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from limaml import failpoints
from limaml.config import Application
from limaml.errors import StoreError
from limaml.online import lmdb_generation, push
from limaml.online.release import collect_garbage, publish
from limaml.online.store import open_store
from limaml.storage import local_path
from tests.limaml.online import doomed
from tests.limaml.online.conftest import AS_OF, Files


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"lmdb://{tmp_path}/store"


def test_a_rerun_goes_on_where_the_killed_one_stopped(
    files: Files, store_url: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    dying = {failpoints.VARIABLE: "lmdb.chunk.committed:3"}
    assert doomed.run(doomed.publish_small_chunks, embeddings, store_url, decision, **dying) == -signal.SIGKILL
    put = lmdb_generation.LmdbWriter._put
    written: list[int] = []
    monkeypatch.setattr(push, "BUFFER_ROWS", doomed.BUFFER_ROWS)
    monkeypatch.setattr(
        lmdb_generation.LmdbWriter, "_put", lambda self, index, *rest: written.append(index) or put(self, index, *rest)
    )
    release = publish(embeddings, store_url, application, decision)
    sealed = open_store(store_url, "small").sealed(release.generation)
    assert sealed is not None
    assert written == list(range(3, len(sealed.chunks)))


def test_after_a_change_of_chunk_size_a_rerun_starts_over(
    files: Files, store_url: str, application: Application
) -> None:
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    dying = {failpoints.VARIABLE: "lmdb.seal.counted"}
    assert doomed.run(doomed.publish_small_chunks, embeddings, store_url, decision, **dying) == -signal.SIGKILL
    release = publish(embeddings, store_url, application, decision)
    sealed = open_store(store_url, "small").sealed(release.generation)
    assert sealed is not None
    assert len(sealed.chunks) == 1


def test_readers_never_see_a_mixture_while_the_pointer_moves(
    files: Files, store_url: str, application: Application
) -> None:
    """Two hundred flips between two pairs; whoever follows the pointer gets a model's own embeddings, always."""
    truth: dict[str, np.ndarray] = {}
    for day, model in enumerate(["m1", "m2"]):
        embeddings = files.embeddings(AS_OF + timedelta(days=day), model)
        publish(embeddings, store_url, application, files.decision(embeddings))
        rows = files.rows(embeddings)
        truth[model] = np.array(rows["embedding"].to_pylist(), np.float32).astype(np.float16).astype(np.float32)
    ids = files.rows(embeddings)["task_id"].to_pylist()
    store = open_store(store_url, "small")
    pair = store.releases()
    wrong: list[str] = []
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        mine = open_store(store_url, "small")
        while not done.is_set():
            release = mine.current()
            if release is None:
                wrong.append("no release")
                return
            reader = mine.open(release.generation)
            found = reader.get(ids)
            reader.close()
            seen.add(release.model_version)
            if not found.found.all() or not np.array_equal(found.embedding, truth[release.model_version]):
                wrong.append(release.name)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(3, 203):
            store.flip(pair[number % 2].model_copy(update={"number": number, "previous": None}))
        done.set()
        for reader in readers:
            reader.result()
    assert wrong == []
    assert seen == {"m1", "m2"}


def test_a_flipped_bit_is_found(
    files: Files, store_url: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    seal = lmdb_generation.LmdbWriter.seal

    def seal_then_damage(writer):
        sealed = seal(writer)
        data = writer._directory / "data.mdb"
        content = bytearray(data.read_bytes())
        expected = files.rows(embeddings)["embedding"][7].as_py()
        at = content.find(np.array(expected, np.float16).tobytes())
        assert at > 0
        content[at] ^= 1
        data.write_bytes(content)
        return sealed

    monkeypatch.setattr(lmdb_generation.LmdbWriter, "seal", seal_then_damage)
    with pytest.raises(StoreError, match="chunk 0 reads back with SHA-256"):
        publish(embeddings, store_url, application, decision)
    store = open_store(store_url, "small")
    assert store.current() is None
    assert store.generations() == []
    monkeypatch.undo()
    assert publish(embeddings, store_url, application, decision).number == 1


def test_a_truncated_generation_is_an_error_not_a_crash(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    release = publish(embeddings, store_url, application, files.decision(embeddings))
    directory = Path(store_url.removeprefix("lmdb://")) / "small" / "generations" / release.generation
    os.truncate(directory / "data.mdb", 8192)
    with pytest.raises(StoreError, match="8192 bytes, its seal says"):
        open_store(store_url, "small").open(release.generation)


def test_a_damaged_pointer_is_an_error(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    publish(embeddings, store_url, application, files.decision(embeddings))
    pointer = Path(store_url.removeprefix("lmdb://")) / "small" / "current.json"
    pointer.write_text(pointer.read_text()[:40])
    with pytest.raises(StoreError, match=r"current\.json: not a release"):
        open_store(store_url, "small").current()


def test_a_full_disk_leaves_the_old_release(files: Files, store_url: str, application: Application) -> None:
    old = files.embeddings()
    first = publish(old, store_url, application, files.decision(old))
    new = files.embeddings(AS_OF + timedelta(days=1), tasks=4000)
    decision = files.decision(new)
    assert doomed.run(doomed.publish_on_full_disk, new, store_url, decision) == StoreError.exit_code
    store = open_store(store_url, "small")
    assert store.current() == first
    assert publish(new, store_url, application, decision).number == 2


def test_a_store_that_cannot_be_written(files: Files, tmp_path: Path, application: Application) -> None:
    (tmp_path / "file").write_text("in the way")
    embeddings = files.embeddings()
    with pytest.raises(StoreError, match=r"can't .*file/store"):
        publish(embeddings, f"lmdb://{tmp_path}/file/store", application, files.decision(embeddings))


def test_the_map_grows_with_the_data(
    files: Files, store_url: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdb_generation, "_FIRST_MAP_BYTES", 1 << 16)
    embeddings = files.embeddings(tasks=5000)
    assert publish(embeddings, store_url, application, files.decision(embeddings)).tasks == 5000


def test_a_read_that_fails_is_an_error_not_an_absent_task(
    files: Files, store_url: str, application: Application
) -> None:
    embeddings = files.embeddings()
    release = publish(embeddings, store_url, application, files.decision(embeddings))
    reader = open_store(store_url, "small").open(release.generation)
    reader.close()
    with pytest.raises(StoreError, match="can't read"):
        reader.get(["1"])


def test_a_deletion_that_died_is_no_generation(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    release = publish(embeddings, store_url, application, files.decision(embeddings))
    directory = Path(store_url.removeprefix("lmdb://")) / "small" / "generations" / "20250101-half"
    directory.mkdir()
    (directory / "data.mdb").write_bytes(b"left")
    store = open_store(store_url, "small")
    assert store.sealed("20250101-half") is None
    with pytest.raises(StoreError, match="no sealed generation"):
        store.open("20250101-half")
    assert collect_garbage(store, 2) == ["20250101-half"]
    assert store.generations() == [release.generation]
    assert local_path(embeddings).exists()
