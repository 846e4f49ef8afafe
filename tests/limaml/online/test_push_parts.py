"""One generation written by several processes at once: what one alone would have written, in every store that can."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from limaml.config import Application
from limaml.errors import ReleaseHeld, StoreError
from limaml.manifest import read_manifest
from limaml.online import push as pushing
from limaml.online.push import cutoff_of, push_part
from limaml.online.release import hold, plan_parts, publish
from limaml.online.store import Generation, open_store
from tests.limaml.online.conftest import Files

PARTS = 3


@pytest.fixture(autouse=True)
def _many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "BUFFER_ROWS", 32)


@pytest.fixture(params=["redis", "dynamodb"])
def shared(request: pytest.FixtureRequest) -> str:
    """An empty store of every kind that takes several writers."""
    return request.getfixturevalue(f"{request.param}_url")


def write_part(url: str, plan: Generation, embeddings: str, application: Application, number: int) -> int:
    store, manifest = open_store(url, application.name), read_manifest(embeddings)
    return push_part(store, plan, embeddings, manifest, cutoff_of(plan, application), number, PARTS)


def written(url: str, plan: Generation) -> int:
    with open_store(url, "small").begin(plan, together=True) as writer:
        return len(writer.chunks)


def test_parts_at_once_are_what_one_writes(shared: str, files: Files, application: Application, tmp_path: Path) -> None:
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    plan = plan_parts(embeddings, shared, application, decision)
    assert plan is not None
    with ThreadPoolExecutor(PARTS) as pool:
        rows = list(pool.map(lambda n: write_part(shared, plan, embeddings, application, n), range(PARTS)))
    assert sum(rows) == plan.tasks
    assert min(rows) > plan.tasks / 5
    chunks = written(shared, plan)
    release = publish(embeddings, shared, application, decision, together=True)
    alone = publish(embeddings, f"lmdb://{tmp_path}/alone", application, decision)
    sealed, expected = (
        open_store(url, "small").sealed(release.generation) for url in (shared, f"lmdb://{tmp_path}/alone")
    )
    assert sealed is not None
    assert expected is not None
    assert sealed.chunks == expected.chunks
    assert len(sealed.chunks) == chunks
    assert (release.generation, release.tasks) == (alone.generation, alone.tasks)
    assert plan_parts(embeddings, shared, application, decision) is None, "it serves already"
    assert write_part(shared, plan, embeddings, application, 0) == 0, "a late retry writes nothing"


def test_what_a_part_did_not_write_the_last_step_does(shared: str, files: Files, application: Application) -> None:
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    plan = plan_parts(embeddings, shared, application, decision)
    assert plan is not None
    write_part(shared, plan, embeddings, application, 1)
    write_part(shared, plan, embeddings, application, 1)
    before = written(shared, plan)
    release = publish(embeddings, shared, application, decision, together=True)
    store = open_store(shared, "small")
    sealed = store.sealed(release.generation)
    assert sealed is not None
    assert 0 < before < len(sealed.chunks)
    store.audit(release.generation)


def test_nobody_else_writes_or_collects_it_meanwhile(shared: str, files: Files, application: Application) -> None:
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    plan = plan_parts(embeddings, shared, application, decision)
    assert plan is not None
    with pytest.raises(StoreError, match="another process is writing"):
        publish(embeddings, shared, application, decision)
    assert not open_store(shared, "small").discard(plan.name)
    publish(embeddings, shared, application, decision, together=True)


def test_a_generation_that_was_collected_meanwhile_is_left_to_the_last_step(
    shared: str, files: Files, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limaml.online.writer_lease.TOGETHER_SECONDS", 1.0)
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    plan = plan_parts(embeddings, shared, application, decision)
    assert plan is not None
    store = open_store(shared, "small")
    while not store.discard(plan.name):
        pass
    assert write_part(shared, plan, embeddings, application, 0) == 0
    assert publish(embeddings, shared, application, decision, together=True).tasks == plan.tasks


def test_a_store_of_one_writer_is_not_divided(files: Files, application: Application, tmp_path: Path) -> None:
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    url = f"lmdb://{tmp_path}/store"
    assert plan_parts(embeddings, url, application, decision) is None
    release = publish(embeddings, url, application, decision, together=True)
    hold(open_store(url, "small"), "looked at")
    with pytest.raises(ReleaseHeld):
        plan_parts(files.embeddings(seed=1), url, application, files.decision(files.embeddings(seed=1)))
    assert release.number == 1
