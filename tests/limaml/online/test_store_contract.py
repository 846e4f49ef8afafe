"""What every online store must do: publish whole releases, move one pointer, never show half of anything."""

import threading
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from limaml.config import Application, parse_application
from limaml.errors import ConfigError, DataError, GateRefused, IntegrityError, ReleaseConflict, StoreError
from limaml.manifest import read_manifest
from limaml.online.records import chunk_sum
from limaml.online.release import collect_garbage, current, hold, publish, rollback
from limaml.online.store import Generation, Release, open_store
from limaml.storage import local_path
from tests.conftest import SMALL
from tests.limaml.online.conftest import AS_OF, Files


def plan_of(release: Release, **changes) -> Generation:
    fields = {
        "name": "20260131-000000000000",
        "application": release.application,
        "model_version": release.model_version,
        "embeddings_digest": "d",
        "as_of": release.as_of,
        "newest_event_time": release.newest_event_time,
        "tasks": 2,
        "width": 2,
        "dtype": "float32",
        "buffer_rows": 16,
    }
    return Generation(**(fields | changes))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_reads_back_what_was_published(files: Files, store_url: str, dtype: str) -> None:
    application = parse_application(SMALL | {"store": {"dtype": dtype}}, "tests")
    embeddings = files.embeddings()
    release = publish(embeddings, store_url, application, files.decision(embeddings))
    rows = files.rows(embeddings)
    reader = open_store(store_url, "small").open(release.generation)
    ids = rows["task_id"].to_pylist()
    found = reader.get([*ids, "nobody", ids[0]])
    assert found.found.tolist() == [True] * len(ids) + [False, True]
    expected = np.array(rows["embedding"].to_pylist(), dtype=np.float32)
    rounding = {"float16": 2**-11, "float32": 0.0}[dtype]
    np.testing.assert_allclose(found.embedding[: len(ids)], expected, rtol=rounding, atol=0)
    np.testing.assert_array_equal(found.embedding[-1], found.embedding[0])
    newest = rows["newest_event_time"].cast(pa.int64()).to_pylist()
    assert found.newest_event_time[: len(ids)].tolist() == newest
    assert found.samples[: len(ids)].tolist() == rows["samples"].to_pylist()
    assert reader.count() == release.tasks == len(ids)


def test_release_names_the_pair(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    release = publish(embeddings, store_url, application, files.decision(embeddings))
    assert (release.number, release.model_version, release.previous) == (1, "m1", None)
    assert release.model_uri == "file:///models/m1"
    assert release.model_digest == "digest-of-m1"
    assert release.embeddings_digest == read_manifest(embeddings).digest
    assert release == current(store_url, application)
    sealed = open_store(store_url, "small").sealed(release.generation)
    assert sealed is not None
    assert sealed.tasks == sum(chunk.rows for chunk in sealed.chunks) == 500


def test_nothing_published_yet(store_url: str, application: Application) -> None:
    store = open_store(store_url, "small")
    assert store.current() is None
    assert store.releases() == []
    with pytest.raises(StoreError, match="no release of small yet"):
        current(store_url, application)
    with pytest.raises(StoreError, match="nothing was published"):
        rollback(store)


def test_publishing_again_changes_nothing(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    first = publish(embeddings, store_url, application, decision)
    assert publish(embeddings, store_url, application, decision) == first
    assert publish(embeddings, store_url, application) == first
    assert len(open_store(store_url, "small").releases()) == 1


def test_refresh_keeps_the_model(files: Files, store_url: str, application: Application) -> None:
    first = files.embeddings()
    with pytest.raises(StoreError, match="first release needs the gate's decision"):
        publish(first, store_url, application)
    publish(first, store_url, application, files.decision(first))
    second = publish(files.embeddings(AS_OF + timedelta(days=1)), store_url, application)
    assert (second.number, second.previous) == (2, 1)
    with pytest.raises(StoreError, match="made by model m2, but release 2 serves model m1"):
        publish(files.embeddings(AS_OF + timedelta(days=2), model="m2"), store_url, application)
    assert current(store_url, application) == second


def test_a_late_rerun_of_an_earlier_day_keeps_the_newer_release(
    files: Files, store_url: str, application: Application
) -> None:
    first = files.embeddings()
    publish(first, store_url, application, files.decision(first))
    newer = publish(files.embeddings(AS_OF + timedelta(days=1)), store_url, application)
    assert publish(first, store_url, application) == newer
    assert current(store_url, application) == newer


def test_only_the_judged_pair_is_published(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    with pytest.raises(GateRefused, match="AUC fell by 2 %"):
        publish(embeddings, store_url, application, files.decision(embeddings, promoted=False))
    with pytest.raises(StoreError, match="publish the pair that was judged"):
        publish(embeddings, store_url, application, files.decision(files.embeddings(seed=1)))
    assert open_store(store_url, "small").current() is None


def test_changed_files_are_refused(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    shard = local_path(embeddings) / "shard=001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"shard=001\.parquet"):
        publish(embeddings, store_url, application, decision)
    assert open_store(store_url, "small").generations() == []


def test_rollback_goes_back_one_pair_each_time(files: Files, store_url: str) -> None:
    application = parse_application(SMALL | {"store": {"keep_generations": 3}}, "tests")
    releases = []
    for day, model in enumerate(["m1", "m1", "m2"]):
        embeddings = files.embeddings(AS_OF + timedelta(days=day), model)
        releases.append(publish(embeddings, store_url, application, files.decision(embeddings)))
    store = open_store(store_url, "small")
    back = rollback(store)
    assert (back.number, back.rollback_from) == (4, 3)
    for name in ("model_version", "model_uri", "model_digest", "generation", "as_of", "embeddings_digest", "cutoff"):
        assert getattr(back, name) == getattr(releases[1], name)
    again = rollback(store)
    assert (again.number, again.generation, again.model_version) == (5, releases[0].generation, "m1")
    with pytest.raises(StoreError, match="no release before it"):
        rollback(store)
    assert [release.number for release in store.releases()] == [5, 4, 3, 2, 1]
    assert store.current() == again
    # Forward once more from where we went back to.
    embeddings = files.embeddings(AS_OF + timedelta(days=3))
    assert hold(store, "").number == 6
    forward = publish(embeddings, store_url, application)
    assert rollback(store).generation == again.generation
    assert forward.previous == 6


def test_rollback_to_a_collected_generation_says_so(files: Files, store_url: str, application: Application) -> None:
    for day in range(3):
        embeddings = files.embeddings(AS_OF + timedelta(days=day))
        publish(embeddings, store_url, application, files.decision(embeddings))
    store = open_store(store_url, "small")
    assert rollback(store).as_of == AS_OF + timedelta(days=1)
    with pytest.raises(StoreError, match="was collected"):
        rollback(store)


def test_gc_keeps_what_serves_and_what_a_rollback_needs(files: Files, store_url: str, application: Application) -> None:
    names = []
    for day in range(4):
        embeddings = files.embeddings(AS_OF + timedelta(days=day))
        names.append(publish(embeddings, store_url, application, files.decision(embeddings)).generation)
    store = open_store(store_url, "small")
    assert store.generations() == names[-2:]
    reader = store.open(names[-2])
    assert collect_garbage(store, 1) == [names[-2]]
    if store_url.startswith("lmdb"):
        # A reader that was pinned before keeps its generation until it lets go.
        assert reader.get(["1"]).found.all()
    else:
        # A reader that was pinned before is told, instead of finding nobody.
        with pytest.raises(StoreError, match="was collected"):
            reader.get(["1"])
    assert store.generations() == names[-1:]


def test_gc_leaves_a_generation_in_the_making(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    release = publish(embeddings, store_url, application, files.decision(embeddings))
    store = open_store(store_url, "small")
    plan = plan_of(release)
    with store.begin(plan) as writer:
        writer.write(0, [b"a"], [b"0" * 20])
        assert collect_garbage(store, 2) == []
        with pytest.raises(StoreError, match="another process is writing"), store.begin(plan):
            pass
    assert store.sealed(plan.name) is None
    assert collect_garbage(store, 2) == [plan.name]


def test_the_pointer_moves_by_compare_and_set(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    release = publish(embeddings, store_url, application, files.decision(embeddings))
    store = open_store(store_url, "small")
    for number in (1, 3):
        with pytest.raises(ReleaseConflict, match="current release is number 1"):
            store.flip(release.model_copy(update={"number": number, "model_uri": "file:///models/of-another-process"}))
    assert store.current() == release


def test_of_two_publishers_that_race_one_wins(files: Files, store_url: str, application: Application) -> None:
    first = files.embeddings()
    release = publish(first, store_url, application, files.decision(first))
    racers = [release.model_copy(update={"number": 2, "model_version": f"racer-{i}"}) for i in range(8)]
    outcomes: list[str] = []

    def run(candidate: Release) -> None:
        try:
            open_store(store_url, "small").flip(candidate)
            outcomes.append(candidate.model_version)
        except ReleaseConflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=run, args=(each,)) for each in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("conflict") == 7
    winner = next(each for each in outcomes if each != "conflict")
    assert current(store_url, application).model_version == winner


def test_chunks_are_idempotent_and_ascending(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    release = publish(embeddings, store_url, application, files.decision(embeddings))
    store, plan, value = open_store(store_url, "small"), plan_of(release), b"0" * 20
    with store.begin(plan) as writer:
        writer.write(0, [b"a", b"b"], [value, value])
        writer.write(0, [b"a", b"b"], [value, value])
        with pytest.raises(StoreError, match="chunk 0 was written before with other content"):
            writer.write(0, [b"a", b"c"], [value, value])
        with pytest.raises(DataError, match="not ordered by task, or name a task twice"):
            writer.write(1, [b"b"], [value])
    with store.begin(plan) as writer:
        assert {index: chunk.rows for index, chunk in writer.chunks.items()} == {0: 2}
        writer.write(1, [b"c"], [value])
        sealed = writer.seal()
    assert sealed.rows == 3
    assert [chunk.sha256 for chunk in sealed.chunks] == [
        chunk_sum([b"a", b"b"], [value, value]),
        chunk_sum([b"c"], [value]),
    ]
    store.audit(plan.name)


def test_another_plan_under_the_same_name_starts_over(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    release = publish(embeddings, store_url, application, files.decision(embeddings))
    store = open_store(store_url, "small")
    with store.begin(plan_of(release)) as writer:
        writer.write(0, [b"a"], [b"0" * 20])
    with store.begin(plan_of(release, width=3)) as writer:
        assert writer.chunks == {}
        writer.write(0, [b"b"], [b"0" * 24])
        assert writer.seal().rows == 1
    assert store.open(plan_of(release).name).get(["a", "b"]).found.tolist() == [False, True]


def test_the_count_is_held_against_the_embeddings(
    files: Files, store_url: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    from limaml.online import push as module

    whole = module.merged
    monkeypatch.setattr(module, "merged", lambda *arguments: (table.slice(20) for table in whole(*arguments)))
    with pytest.raises(DataError, match="480 records were written where its manifest says 500"):
        publish(embeddings, store_url, application, decision)
    assert open_store(store_url, "small").generations() == []
    monkeypatch.undo()
    assert publish(embeddings, store_url, application, decision).tasks == 500


def test_wrong_values_are_found_before_the_flip(
    files: Files, store_url: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings under the wrong keys pass every sum and count; reading a sample back does not let them through."""
    embeddings = files.embeddings()
    decision = files.decision(embeddings)
    from limaml.online import push as module

    encode = module.encode

    def shifted(*arguments):
        keys, values = encode(*arguments)
        return keys, values[1:] + values[:1]

    monkeypatch.setattr(module, "encode", shifted)
    with pytest.raises(StoreError, match="reads back something else"):
        publish(embeddings, store_url, application, decision)
    assert open_store(store_url, "small").current() is None


def test_applications_do_not_share_a_pointer(files: Files, store_url: str, application: Application) -> None:
    embeddings = files.embeddings()
    publish(embeddings, store_url, application, files.decision(embeddings))
    assert open_store(store_url, "other").current() is None
    other = parse_application(SMALL | {"name": "other"}, "tests")
    with pytest.raises(DataError, match="embeddings of 'small', not of 'other'"):
        publish(embeddings, store_url, other)


@pytest.mark.parametrize("url", ["", "redis", "lmdb://relative/path", "s3://bucket/x"])
def test_unknown_stores(url: str) -> None:
    with pytest.raises(ConfigError, match="lmdb:///absolute/path"):
        open_store(url, "small")


def test_a_replaced_pair_does_not_come_back_by_a_rerun(files: Files, store_url: str, application: Application) -> None:
    first, second = files.embeddings(model="m1"), files.embeddings(model="m2")
    publish(first, store_url, application, files.decision(first))
    replaced = publish(second, store_url, application, files.decision(second))
    assert publish(first, store_url, application, files.decision(first)) == replaced
    assert current(store_url, application) == replaced
    # Nor does one that was rolled back.
    restored = rollback(open_store(store_url, "small"))
    assert restored.model_version == "m1"
    assert publish(second, store_url, application, files.decision(second)) == restored
