"""Fourteen days of refreshes that carry over what did not change, against a full refresh of each day."""

import logging
import shutil
import signal
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.config import Application, parse_application
from limaml.data.embedding_files import EmbeddingFiles, shard_entries
from limaml.data.tasks import group_tasks
from limaml.errors import DataError
from limaml.manifest import Manifest, read_manifest
from limaml.online.embeddings import generate_embeddings
from limaml.online.overlay import chain, open_generation
from limaml.online.release import publish
from limaml.online.store import open_store
from limaml.schema import REMOVED
from limaml.stage import Stage, entries
from limaml.windows import refresh_split
from tests.conftest import SMALL
from tests.limaml.online import doomed
from tests.limaml.online.chain import START, with_embeddings, write_model
from tests.limaml.online.conftest import Files
from tests.limaml.online.test_definitions import ALSO

LOOKBACK, DAYS, MEMBERS = 6, 14, 90
FIRST = START + timedelta(days=LOOKBACK)


def log_of_days(seed: int = 0) -> pa.Table:
    """A log in which most members are away on most days, so that tasks come, stay, change and go."""
    rng = np.random.default_rng(seed)
    days = LOOKBACK + DAYS
    active = rng.random((MEMBERS, days)) < rng.choice([0.02, 0.15, 0.5], MEMBERS)[:, None]
    member, day = np.nonzero(active)
    times = rng.integers(1, 5, len(member))
    member, day = np.repeat(member, times), np.repeat(day, times)
    rows = len(member)
    start = np.datetime64(START.isoformat(), "us").astype(np.int64)
    time = start + (day * 86_400 + rng.integers(0, 86_400, rows)) * 1_000_000
    return pa.table(
        {
            "member_id": member,
            "item_id": rng.integers(0, 40, rows),
            "impression_id": np.arange(rows),
            "event_time": pa.array(time).cast(pa.timestamp("us", tz="UTC")),
            "label": rng.integers(0, 2, rows).astype(np.int8),
            "member_x0": rng.normal(size=MEMBERS)[member],
            "member_x1": rng.normal(size=MEMBERS)[member],
            "member_kind": pa.array([f"kind-{k}" for k in rng.integers(0, 4, MEMBERS)[member]]),
            "item_x0": rng.normal(size=rows),
            "item_x1": rng.normal(size=rows),
            "notification_type": pa.array([f"type-{k}" for k in rng.integers(0, 5, rows)]),
        }
    )


@dataclass(frozen=True)
class Days:
    """A model, and the recent tasks of every day."""

    root: Path
    application: Application
    model: str

    @classmethod
    def make(cls, root: Path, content: dict[str, Any]) -> "Days":
        application = parse_application(SMALL | {"windows": {"lookback_days": LOOKBACK}} | content, "tests")
        rows = log_of_days()
        stage = Stage("validated", str(root / "validated"), application, (), {"rows": rows.num_rows})

        def build(directory: Path) -> Manifest:
            pq.write_table(rows, directory / "kept.parquet")
            return stage.manifest(entries(directory, {"kept.parquet": len(rows)}), {}, {"passed": True})

        stage.run(build)
        return cls(root, application, write_model(root, "m1", application, rows))

    def tasks(self, as_of: date, application: Application | None = None, name: str = "tasks") -> str:
        application = application or self.application
        uri = str(self.root / f"{name}-{as_of}")
        group_tasks(str(self.root / "validated"), uri, application, refresh_split(application.windows, as_of))
        return uri

    def refresh(self, name: str, as_of: date, previous: str = "", application: Application | None = None) -> str:
        uri = str(self.root / f"{name}-{as_of}")
        tasks = self.tasks(as_of)
        generate_embeddings(self.model, tasks, uri, application or self.application, as_of, previous)
        return uri


def table_of(uri: str) -> pa.Table:
    manifest = read_manifest(uri)
    return pa.concat_tables(pq.read_table(Path(uri) / entry.path) for entry in shard_entries(manifest)).sort_by(
        "task_id"
    )


def vectors_of(table: pa.Table) -> np.ndarray:
    return np.stack(table["embedding"].to_numpy(zero_copy_only=False))


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    return Days.make(tmp_path_factory.mktemp("days"), {})


@pytest.mark.parametrize(
    "content", [{}, {"also": ALSO}, {"embeddings": {"pooling": "cosine"}}], ids=["one", "several", "pooled"]
)
def test_fourteen_days_equal_fourteen_full_refreshes(tmp_path: Path, content: dict[str, Any]) -> None:
    days = Days.make(tmp_path, content)
    before = days.refresh("delta", FIRST)
    assert read_manifest(before).details["previous_digest"] == ""
    shares = []
    for number in range(1, DAYS):
        as_of = FIRST + timedelta(days=number)
        full, delta = days.refresh("full", as_of), days.refresh("delta", as_of, before)
        expected, found, yesterday = table_of(full), table_of(delta), table_of(before)
        for name in ("task_id", "newest_event_time", "samples", "support_digest", "model_version"):
            assert found[name].equals(expected[name]), name
        np.testing.assert_allclose(vectors_of(found), vectors_of(expected), rtol=0, atol=1e-6)
        same = dict(zip(yesterday["task_id"].to_pylist(), yesterday["support_digest"].to_pylist(), strict=True))
        ids = found["task_id"].to_pylist()
        untouched = [same.get(i) == digest for i, digest in zip(ids, found["support_digest"].to_pylist(), strict=True)]
        kept = found.filter(pa.array(untouched))
        assert kept.equals(yesterday.filter(pa.array([i in set(kept["task_id"].to_pylist()) for i in same]))), (
            "every bit"
        )
        cutoff = datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC)
        assert [each == cutoff for each in found["as_of"].to_pylist()] == [not each for each in untouched]
        removed = pq.read_table(Path(delta) / REMOVED)["task_id"].to_pylist()
        assert removed == sorted(set(same) - set(ids), key=str.encode)
        manifest = read_manifest(delta)
        assert manifest.counts == read_manifest(full).counts
        assert manifest.details["previous_digest"] == read_manifest(before).digest
        assert manifest.details["changed"] == untouched.count(False)
        assert manifest.details["removed"] == len(removed)
        assert EmbeddingFiles(delta).lookup()[0] == EmbeddingFiles(full).lookup()[0]
        shares.append(sum(untouched) / len(untouched))
        before = delta
    assert 0.2 < np.mean(shares) < 0.8, "a test in which nothing, or everything, is carried over shows little"


def test_fourteen_days_in_the_store_read_as_fourteen_full_refreshes(tmp_path: Path) -> None:
    days = Days.make(tmp_path, {"store": {"maximum_overlays": 4}})
    url, before, pushed, layers = f"lmdb://{tmp_path}/store", "", [], []
    for number in range(DAYS):
        as_of = FIRST + timedelta(days=number)
        before = days.refresh("delta", as_of, before)
        decision = Files(tmp_path, days.application).decision(before) if number == 0 else None
        release = publish(before, url, days.application, decision)
        store = open_store(url, days.application.name)
        made = chain(store, release.generation)
        full = table_of(days.refresh("full", as_of))
        ids = full["task_id"].to_pylist()
        with closing(open_generation(store, release.generation)) as reader:
            records = reader.get(ids)
            gone = reader.get([str(member) for member in range(MEMBERS) if str(member) not in set(ids)])
        assert records.found.all()
        assert not gone.found.any()
        np.testing.assert_allclose(records.embedding, vectors_of(full).astype(np.float16), rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(records.samples, full["samples"].to_numpy())
        np.testing.assert_array_equal(records.newest_event_time, full["newest_event_time"].cast(pa.int64()).to_numpy())
        details = read_manifest(before).details
        assert made[0].rows == (details["changed"] + details["removed"] if made[0].base else release.tasks)
        pushed.append(made[0].rows / release.tasks)
        layers.append(len(made))
    assert max(layers) > 3, "there were overlays"
    assert layers.count(1) > 1, "and they were compacted"
    assert np.mean(pushed) < 0.95


def test_a_finished_output_stays_whatever_it_was_carried_over_from(days: Days) -> None:
    first, as_of = days.refresh("again", FIRST), FIRST + timedelta(days=1)
    delta = days.refresh("again", as_of, first)
    made = read_manifest(delta)
    assert 0 < made.details["changed"] < made.counts["tasks"]
    for previous in ("", delta):
        assert days.refresh("again", as_of, previous) == delta
        assert read_manifest(delta) == made


def test_a_day_made_again_from_other_rows_computes_its_own_work_again(days: Days) -> None:
    """Where the previous embeddings are of the same day, their own work is not told from today's."""
    as_of = FIRST + timedelta(days=1)
    delta = days.refresh("redone", as_of, days.refresh("redone", FIRST))
    work = read_manifest(delta).details["changed"]
    shutil.copytree(delta, days.root / "of-the-day")
    shutil.rmtree(delta)
    again = read_manifest(days.refresh("redone", as_of, str(days.root / "of-the-day")))
    assert (again.details["changed"], again.details["removed"]) == (work, 0)


def test_killed_and_run_again_it_keeps_what_is_finished(days: Days) -> None:
    first, as_of = days.refresh("killed", FIRST), FIRST + timedelta(days=1)
    whole = days.refresh("whole", as_of, first)
    output = days.root / f"killed-{as_of}"
    text = days.application.model_dump_json()
    died = doomed.run(doomed.embed_and_die, days.model, days.tasks(as_of), str(output), as_of.isoformat(), first, text)
    assert died == -signal.SIGKILL
    assert not output.exists()
    (finished,) = days.root.glob(".killed*/shard=000.parquet")
    inode = finished.stat().st_ino
    days.refresh("killed", as_of, first)
    assert read_manifest(str(output)).digest == read_manifest(whole).digest
    assert (output / "shard=000.parquet").stat().st_ino == inode


def test_killed_and_run_again_from_other_embeddings_it_starts_over(days: Days) -> None:
    first, as_of = days.refresh("restarted", FIRST), FIRST + timedelta(days=1)
    output, text = days.root / f"restarted-{as_of}", days.application.model_dump_json()
    doomed.run(doomed.embed_and_die, days.model, days.tasks(as_of), str(output), as_of.isoformat(), first, text)
    days.refresh("restarted", as_of)
    manifest = read_manifest(str(output))
    assert manifest.details["changed"] == manifest.counts["tasks"]


@pytest.mark.parametrize("changes", [{"pooling": "mean"}, {"finetune_steps": 1}], ids=["pooling", "steps"])
def test_other_settings_carry_nothing_over(
    days: Days, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    name, as_of = "-".join(changes), FIRST + timedelta(days=1)
    other = with_embeddings(days.application, **changes)
    with caplog.at_level(logging.WARNING):
        delta = days.refresh(name, as_of, days.refresh("settings", FIRST), other)
    manifest = read_manifest(delta)
    assert manifest.details["changed"] == manifest.counts["tasks"]
    assert manifest.details["previous_digest"] == ""
    assert not (Path(delta) / REMOVED).exists()
    assert f"{next(iter(changes))} was" in caplog.text
    assert table_of(delta)["embedding"].equals(table_of(days.refresh(f"{name}-full", as_of, "", other))["embedding"])


def test_another_model_or_number_of_shards_carries_nothing_over(days: Days, caplog: pytest.LogCaptureFixture) -> None:
    first, as_of = days.refresh("first", FIRST), FIRST + timedelta(days=1)
    other = write_model(days.root, "m2", days.application, log_of_days())
    manifest = generate_embeddings(other, days.tasks(as_of), str(days.root / "m2-e"), days.application, as_of, first)
    assert (manifest.details["changed"], manifest.details["previous_digest"]) == (manifest.counts["tasks"], "")
    grouping = days.application.grouping.model_copy(update={"shards": 3})
    wider = days.application.model_copy(update={"grouping": grouping})
    tasks = days.tasks(as_of, wider, "three")
    manifest = generate_embeddings(days.model, tasks, str(days.root / "three-e"), wider, as_of, first)
    assert (manifest.details["changed"], manifest.details["previous_digest"]) == (manifest.counts["tasks"], "")
    assert "model_digest was" in caplog.text
    assert "2 shards of other names" in caplog.text


def test_damaged_embeddings_carry_nothing_over(days: Days, caplog: pytest.LogCaptureFixture) -> None:
    damaged = Path(days.refresh("damaged", FIRST)) / "shard=001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    manifest = read_manifest(days.refresh("undamaged", FIRST + timedelta(days=1), str(damaged.parent)))
    assert (manifest.details["changed"], manifest.details["previous_digest"]) == (manifest.counts["tasks"], "")
    assert "shard=001.parquet" in caplog.text


def test_previous_embeddings_must_be_there(days: Days) -> None:
    with pytest.raises(DataError, match=r"nowhere: no manifest\.json"):
        days.refresh("none", FIRST, str(days.root / "nowhere"))
