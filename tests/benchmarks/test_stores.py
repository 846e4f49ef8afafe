"""The benchmark of pushing and reading pushes and reads what it says."""

from pathlib import Path

import pytest

from benchmarks.online.stores import APPLICATION, medians, push_here, reads, write_embeddings
from limaml.online.store import open_store


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_a_push_and_reads(tmp_path: Path, kind: str) -> None:
    from tests.limaml.online.servers import RedisServer

    if kind == "lmdb":
        _push_and_read(tmp_path, f"lmdb://{tmp_path}/store")
        return
    with RedisServer(tmp_path) as server:
        _push_and_read(tmp_path, server.url)


def _push_and_read(folder: Path, url: str) -> None:
    pushed = push_here(url, write_embeddings(folder, 3000))
    assert pushed["per_second"] > 0
    assert 140 < pushed["stored_bytes"] < 200
    store = open_store(url, APPLICATION.name)
    (name,) = store.generations()
    assert store.open(name).get([str(task) for task in range(3000)]).found.all()
    found = reads(store, 3000, 200)
    assert found["over_raw"] == pytest.approx(found["get"] / found["raw"], abs=0.01)


def test_every_call_is_asked_for_every_task_in_its_own_order() -> None:
    seen: dict[str, list[str]] = {"a": [], "b": []}
    tasks = [str(number) for number in range(10)]
    assert set(medians({"a": seen["a"].append, "b": seen["b"].append}, tasks)) == {"a", "b"}
    assert sorted(seen["a"]) == sorted(seen["b"]) == tasks
    assert not any(one == other for one, other in zip(seen["a"], seen["b"], strict=True))
