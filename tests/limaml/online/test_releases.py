"""The life of a release on every store: deltas as overlays, their compaction, holds, and what is kept for how long."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from limaml.config import Application, Experiment, parse_application
from limaml.errors import DataError, ReleaseHeld, StoreError
from limaml.manifest import read_manifest
from limaml.online import push
from limaml.online.overlay import chain, open_generation
from limaml.online.release import collect_garbage, collect_unneeded, current, hold, publish, rollback
from limaml.online.store import Release, open_store
from tests.conftest import SMALL
from tests.limaml.online.conftest import AS_OF, Files


def keeping(**store: object) -> Application:
    return parse_application(SMALL | {"store": {"keep_days": 0, **store}}, "tests")


def assert_reads(url: str, release: Release, files: Files, embeddings: str, gone: str = "") -> None:
    """The release holds exactly these embeddings; what only `gone` had is absent."""
    rows = files.rows(embeddings)
    ids = rows["task_id"].to_pylist()
    absent = sorted(set(files.rows(gone)["task_id"].to_pylist()) - set(ids)) if gone else []
    reader = open_generation(open_store(url, "small"), release.generation)
    found = reader.get([*ids, *absent, "nobody"])
    reader.close()
    assert found.found.tolist() == [True] * len(ids) + [False] * (len(absent) + 1)
    expected = np.array(rows["embedding"].to_pylist(), np.float32).astype(release.dtype).astype(np.float32)
    np.testing.assert_array_equal(found.embedding[: len(ids)], expected)
    assert found.samples[: len(ids)].tolist() == rows["samples"].to_pylist()
    assert release.tasks == release.verified["tasks"] == len(ids)


@pytest.mark.parametrize("buffer_rows", [17, 16_384])
def test_a_delta_is_stored_as_what_changed(
    files: Files, store_url: str, application: Application, monkeypatch: pytest.MonkeyPatch, buffer_rows: int
) -> None:
    monkeypatch.setattr(push, "BUFFER_ROWS", buffer_rows)
    first = files.embeddings()
    full = publish(first, store_url, application, files.decision(first))
    second = files.delta(first)
    over = publish(second, store_url, application)
    third = files.delta(second, remove=0, add=0)
    top = publish(third, store_url, application)
    store = open_store(store_url, "small")
    layers = chain(store, top.generation)
    assert [layer.name for layer in layers] == [top.generation, over.generation, full.generation]
    made = read_manifest(second).details
    assert layers[1].rows == made["changed"] + made["removed"] == over.verified["records"]
    assert layers[1].tasks == layers[0].tasks == 501
    assert layers[0].rows < 60 < layers[2].rows == 500
    assert_reads(store_url, top, files, third, gone=first)
    assert_reads(store_url, over, files, second, gone=first)
    assert_reads(store_url, full, files, first, gone=third)


def test_after_a_few_overlays_a_full_generation_follows(files: Files, store_url: str) -> None:
    application = keeping(maximum_overlays=2)
    before = files.embeddings()
    publish(before, store_url, application, files.decision(before))
    store, lengths = open_store(store_url, "small"), []
    for _ in range(5):
        made = files.delta(before)
        release = publish(made, store_url, application)
        lengths.append(len(chain(store, release.generation)))
        assert_reads(store_url, release, files, made, gone=before)
        before = made
    assert lengths == [2, 3, 1, 2, 3]
    assert len(store.generations()) == 3  # two releases to serve or roll back to, and the base of both


def test_what_is_no_delta_of_the_current_release_is_written_whole(files: Files, store_url: str) -> None:
    first = files.embeddings()
    publish(first, store_url, keeping(), files.decision(first))
    second = files.delta(first)
    store = open_store(store_url, "small")
    release = publish(files.delta(second), store_url, keeping())  # the day between was never published
    assert len(chain(store, release.generation)) == 1
    release = publish(files.delta(files.delta(second), seed=5), store_url, keeping(dtype="float32"))
    assert len(chain(store, release.generation)) == 1


def test_a_delta_whose_manifest_counts_otherwise_is_refused(
    files: Files, store_url: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = files.embeddings()
    serving = publish(first, store_url, application, files.decision(first))
    second = files.delta(first)
    computed = push.computed_at
    monkeypatch.setattr(push, "computed_at", lambda table, cutoff: computed(table, cutoff)[1:])
    with pytest.raises(DataError, match=r"5\d records were written where its manifest says 5\d"):
        publish(second, store_url, application)
    assert open_store(store_url, "small").generations() == [serving.generation]
    monkeypatch.undo()
    assert publish(second, store_url, application).number == 2


def test_removed_tasks_that_stay_are_found(
    files: Files, store_url: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = files.embeddings()
    serving = publish(first, store_url, application, files.decision(first))
    monkeypatch.setattr(push, "removed_keys", lambda *_: [b"x", b"y", b"z"])
    with pytest.raises(StoreError, match="still returns 3 of 3 sampled tasks that were removed"):
        publish(files.delta(first), store_url, application)
    assert current(store_url, application) == serving


def test_a_rollback_holds_until_somebody_ends_it(files: Files, store_url: str, application: Application) -> None:
    first = files.embeddings()
    publish(first, store_url, application, files.decision(first))
    bad = files.delta(first)
    publish(bad, store_url, application)
    store = open_store(store_url, "small")
    back = rollback(store, "scores fell")
    assert (back.number, back.held, back.embeddings_digest) == (3, "scores fell", read_manifest(first).digest)
    better = files.embeddings(AS_OF + timedelta(days=2))
    other = files.embeddings(AS_OF + timedelta(days=2), model="m2")
    for embeddings, decision in ((better, None), (other, files.decision(other))):
        with pytest.raises(ReleaseHeld, match=r"release 3 .* is held: scores fell\. .* `limaml release hold --off`"):
            publish(embeddings, store_url, application, decision)
    assert publish(first, store_url, application) == back
    assert publish(bad, store_url, application) == back
    freed = hold(store, "")
    assert (freed.number, freed.held, freed.rollback_from, freed.previous) == (4, "", None, None)
    assert hold(store, "") == freed
    forward = publish(better, store_url, application)
    assert (forward.number, forward.previous) == (5, 4)
    held = hold(store, "weekend")
    assert (held.number, held.held, held.generation, held.previous) == (6, "weekend", forward.generation, 4)
    assert rollback(store).held == "rolled back from release 6"


def test_a_mistaken_rollback_is_undone_by_number(files: Files, store_url: str) -> None:
    application = keeping(keep_generations=3, keep_days=7)
    made = [files.embeddings(AS_OF + timedelta(days=day)) for day in range(3)]
    released = [publish(each, store_url, application, files.decision(each)) for each in made]
    store = open_store(store_url, "small")
    back = rollback(store, to=1)
    assert (back.number, back.generation, back.previous) == (4, released[0].generation, None)
    again = rollback(store, "all was well", to=3)
    assert (again.number, again.generation, again.previous) == (5, released[2].generation, 2)
    assert again.held == "all was well"
    assert rollback(store, to=3) == again
    with pytest.raises(StoreError, match="there is no release 9 to roll back to"):
        rollback(store, to=9)
    assert rollback(store).generation == released[1].generation


def test_a_delta_of_a_rolled_back_release_lies_on_what_serves(
    files: Files, store_url: str, application: Application
) -> None:
    first = files.embeddings()
    full = publish(first, store_url, application, files.decision(first))
    publish(files.delta(first), store_url, application)
    store = open_store(store_url, "small")
    rollback(store)
    hold(store, "")
    made = files.delta(first, days=2)
    release = publish(made, store_url, application)
    assert [layer.name for layer in chain(store, release.generation)] == [release.generation, full.generation]
    assert_reads(store_url, release, files, made, gone=first)


def test_gc_keeps_recent_releases_and_bases_however_many(files: Files, store_url: str) -> None:
    application = keeping(keep_days=7, maximum_overlays=1)
    before = files.embeddings()
    names = [publish(before, store_url, application, files.decision(before)).generation]
    for _ in range(4):  # full, over it, full, over it, full
        before = files.delta(before)
        names.append(publish(before, store_url, application).generation)
    store = open_store(store_url, "small")
    assert sorted(store.generations()) == sorted(names)
    now = datetime.now(UTC)
    assert collect_garbage(store, 2, 7, now + timedelta(days=6.9)) == []
    # Two remain to roll back to, and the base of one of them.
    assert sorted(collect_garbage(store, 2, 7, now + timedelta(days=7.1))) == sorted(names[:2])
    assert sorted(store.generations()) == sorted(names[2:])
    assert rollback(store).generation == names[3]


def test_gc_keeps_what_an_arm_of_a_test_reads(files: Files, store_url: str) -> None:
    application = keeping(keep_days=0, maximum_overlays=0)
    before = files.embeddings()
    names = [publish(before, store_url, application, files.decision(before)).generation]
    arms = Experiment(control=1, treatment="current")
    tested = application.model_copy(update={"experiment": arms})
    for _ in range(3):
        before = files.delta(before)
        names.append(publish(before, store_url, tested).generation)
    store = open_store(store_url, "small")
    assert sorted(store.generations()) == sorted([names[0], *names[2:]])
    assert collect_unneeded(store, application) == [names[0]]


def test_the_current_generation_is_never_deleted_nor_a_deleted_one_made_current(
    files: Files, store_url: str, application: Application
) -> None:
    first = files.embeddings()
    release = publish(first, store_url, application, files.decision(first))
    store = open_store(store_url, "small")
    assert not store.discard(release.generation)
    assert_reads(store_url, release, files, first)
    gone = release.model_copy(update={"number": 2, "generation": "20200101-000000000000"})
    with pytest.raises(StoreError, match="publish again"):
        store.flip(gone)
    assert store.current() == release


def test_embeddings_of_another_norm_are_refused(files: Files, store_url: str, application: Application) -> None:
    first = files.embeddings(date(2026, 2, 1))
    serving = publish(first, store_url, application, files.decision(first))
    assert 1.5 < float(serving.verified["median_norm"]) < 3  # of a five-wide normal vector: about 2.1
    exploded = files.embeddings(date(2026, 2, 2), scale=4.0)
    with pytest.raises(StoreError, match=r"median norm .* is 8\.\d+, of the release before it 2\.\d+"):
        publish(exploded, store_url, application)
    assert current(store_url, application) == serving
