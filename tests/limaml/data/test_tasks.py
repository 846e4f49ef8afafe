"""Task grouping against a slow reference."""

import hashlib
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.config import Application, parse_application
from limaml.data import group_embedded, grouping, shards
from limaml.data.features import encode_features
from limaml.data.tasks import TaskSet, group_tasks
from limaml.errors import DataError, IntegrityError
from limaml.manifest import Manifest
from limaml.schema import task_id, task_set_schema
from limaml.stage import Stage, entries
from limaml.windows import TaskSplit, Window

START = date(2026, 3, 1)
TRAIN = TaskSplit(name="train", window=Window(start=START, end=date(2026, 3, 5)))
TEST = TaskSplit(name="test", window=TRAIN.window, boundary=date(2026, 3, 4))


def application(
    keys: Sequence[str] = ("member_id",), max_samples: int = 6, categorical: bool = True, **task: Any
) -> Application:
    other: list[Any] = [{"name": "popularity"}]
    if categorical:
        other.append({"name": "type", "kind": "categorical"})
    return parse_application(
        {
            "name": "small",
            "title": "A small application",
            "task": {"keys": list(keys), "max_samples": max_samples, **task},
            "data": {"row_id_column": "row"},
            "features": {
                "meta": ["age", {"name": "city", "kind": "categorical"}, "visits"][: 3 if categorical else 1],
                "other": other,
            },
            "grouping": {"shards": 3, "buckets": 3},
        },
        "small",
    )


def log_rows(rows: int = 600, members: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Interactions with heavy tasks, one-sample tasks, tied times and wholly equal rows."""
    generator = random.Random(seed)
    result = []
    for row in range(rows):
        member = int(members * generator.random() ** 3)
        second = generator.randrange(-43_200, 6 * 86_400, 7200 if generator.random() < 0.5 else 1)
        result.append(
            {
                "member_id": member,
                "type": generator.choice(["digest", "like|share", "a\\b", "job"]),
                "event_time": datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=second),
                "row": row,
                "label": member % 2 if member < 10 else generator.randrange(2),
                "age": generator.choice([None, 20.5, float(generator.randrange(90))]),
                "city": generator.choice([None, "Oslo", "Łódź"]),
                "visits": generator.randrange(1000),
                "popularity": generator.random(),
                "outcome": 1.0,
            }
        )
    return result + result[:20]


def write_validated(
    folder: Path | str,
    rows: list[dict[str, Any]],
    app: Application,
    files: int = 4,
    passed: bool = True,
    zone: str | None = "UTC",
    window: Window = TRAIN.window,
) -> str:
    """A validated manifest whose files hold the rows, as `validate` would write it."""

    def build(directory: Path) -> Manifest:
        counts = {}
        for number in range(files):
            table = pa.Table.from_pylist(rows[number::files])
            counts[f"kept-{number}.parquet"] = table.num_rows
            table = table.set_column(
                table.schema.get_field_index("event_time"),
                "event_time",
                table.column("event_time").cast(pa.timestamp("us", zone)),
            )
            pq.write_table(table, directory / f"kept-{number}.parquet", row_group_size=50)
        return stage.manifest(
            entries(directory, counts),
            {"rows": len(rows)},
            {"passed": passed, "window": window.model_dump(mode="json")},
        )

    stage = Stage("validated", str(folder), app, (), {"rows": hashlib.sha256(repr((rows, files)).encode()).hexdigest()})
    stage.run(build)
    return str(folder)


def slow_group(rows: list[dict[str, Any]], app: Application, split: TaskSplit) -> dict[str, list[tuple]]:
    """Task id → (event time, row id, label, is query) in plain Python; wholly tied rows are equal here."""
    by_task = defaultdict(list)
    for row in rows:
        if split.window.start_time <= row["event_time"] < split.window.end_time:
            by_task[task_id(*(row[key] for key in app.task.keys))].append((row["event_time"], row["row"], row["label"]))
    result = {}
    for name, found in by_task.items():
        found.sort()
        if split.boundary_time is None:
            found = found[-app.task.max_samples :]
            support = min(int(len(found) * app.task.support_fraction), len(found) - 1)
        else:
            before = [row for row in found if row[0] < split.boundary_time]
            before = before[-app.task.max_samples :]
            found = before + [row for row in found if row[0] >= split.boundary_time]
            support = len(before)
        result[name] = [(*row, position >= support) for position, row in enumerate(found)]
    return result


def read_back(output: str | Path) -> dict[str, list[tuple]]:
    result = defaultdict(list)
    for path in sorted(Path(output).glob("shard=*.parquet")):
        for row in pq.read_table(path).to_pylist():
            result[row["task_id"]].append((row["event_time"], row["row_id"], row["label"], row["is_query"]))
    return dict(result)


def stored_features(table: pa.Table, name: str, dtype: str) -> np.ndarray:
    """[R, width] of a column of bytes."""
    return np.frombuffer(b"".join(table.column(name).to_pylist()), dtype).reshape(len(table), -1)


def sums(output: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in output.glob("shard=*.parquet")}


@pytest.mark.parametrize("split", [TRAIN, TEST], ids=["fraction", "boundary"])
@pytest.mark.parametrize("keys", [("member_id",), ("member_id", "type"), ("type",)], ids="-".join)
def test_tasks_equal_the_slow_reference(tmp_path: Path, keys: tuple[str, ...], split: TaskSplit):
    app, rows = application(keys), log_rows()
    manifest = group_tasks(write_validated(tmp_path / "v", rows, app), str(tmp_path / "out"), app, split)
    expected = slow_group(rows, app, split)
    assert read_back(tmp_path / "out") == expected
    every = [row for found in expected.values() for row in found]
    assert manifest.counts == {
        "tasks": len(expected),
        "rows": len(every),
        "support_rows": sum(not row[3] for row in every),
        "query_rows": sum(row[3] for row in every),
    }
    assert TaskSplit.model_validate(manifest.details["split"]) == split


def test_features_travel_with_their_rows(tmp_path: Path):
    app, rows = application(max_samples=10_000), log_rows()
    group_tasks(write_validated(tmp_path / "v", rows, app), str(tmp_path / "out"), app, TRAIN)
    by_row = {row["row"]: row for row in rows}
    table = pq.read_table(tmp_path / "out" / "shard=001.parquet")
    assert table.schema.names == task_set_schema(2, 1, 1, 1).names
    source = pa.Table.from_pylist([by_row[row] for row in table.column("row_id").to_pylist()])
    for side, features in (("meta", app.features.meta), ("other", app.features.other)):
        numeric, codes = encode_features(features, source)
        np.testing.assert_array_equal(stored_features(table, f"{side}_numeric", "<f4"), numeric)
        np.testing.assert_array_equal(stored_features(table, f"{side}_category", "<i8"), codes)


def test_no_byte_depends_on_buckets_files_order_or_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    app, rows = application(("member_id", "type")), log_rows()
    monkeypatch.setattr(shards, "ROW_GROUP_ROWS", 40)
    shuffled = random.Random(1).sample(rows, len(rows))
    results = []
    for name, buckets, content, files in (
        ("a", 1, rows, 1), ("b", 40, rows, 4), ("c", 7, shuffled, 3), ("d", 500, shuffled[::-1], 2),
    ):  # fmt: skip
        changed = app.model_copy(update={"grouping": app.grouping.model_copy(update={"buckets": buckets})})
        monkeypatch.setattr(group_embedded, "SHARD_THREADS", len(results) + 1)
        group_tasks(write_validated(tmp_path / f"v{name}", content, app, files), str(tmp_path / name), changed, TRAIN)
        results.append(sums(tmp_path / name))
    assert len(results[0]) == 3
    assert all(result == results[0] for result in results)
    assert pq.ParquetFile(tmp_path / "a" / "shard=000.parquet").num_row_groups > 1


def test_the_union_of_shards_does_not_depend_on_their_number(tmp_path: Path):
    app, rows = application(), log_rows()
    validated = write_validated(tmp_path / "v", rows, app)
    found = []
    for count in (1, 5):
        changed = app.model_copy(update={"grouping": app.grouping.model_copy(update={"shards": count})})
        manifest = group_tasks(validated, str(tmp_path / str(count)), changed, TRAIN)
        assert len(manifest.files) == count
        found.append(read_back(tmp_path / str(count)))
    assert found[0] == found[1]


def test_rows_tied_in_time_and_row_id_are_ordered_by_content(tmp_path: Path):
    app = application()
    row = log_rows(1)[0] | {"event_time": datetime(2026, 3, 2, tzinfo=UTC), "row": 0}
    rows = [row | {"label": i % 2, "popularity": float(i // 2)} for i in range(5)]
    results = []
    for name, content in (("a", rows), ("b", rows[::-1])):
        group_tasks(write_validated(tmp_path / f"v{name}", content, app, 1), str(tmp_path / name), app, TRAIN)
        results.append(sums(tmp_path / name))
    assert results[0] == results[1]


def test_tasks_whose_hashes_collide_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    app, rows = application(("type", "member_id")), log_rows(200)
    monkeypatch.setattr("limaml.data.interactions.hash_keys", lambda keys: np.full(len(keys[0]), 7, np.uint64))
    group_tasks(write_validated(tmp_path / "v", rows, app), str(tmp_path / "out"), app, TRAIN)
    assert read_back(tmp_path / "out") == slow_group(rows, app, TRAIN)


@pytest.mark.parametrize("fraction", [0.0, 0.29, 0.7, 0.75, 1.0])
def test_support_is_the_fraction_rounded_down_with_one_row_left_to_query(fraction: float):
    lengths = np.arange(1, 200)
    expected = [min((n * round(fraction * 100)) // 100, n - 1) for n in lengths.tolist()]
    assert grouping.support_rows(lengths, fraction).tolist() == expected


def test_an_application_without_categorical_features(tmp_path: Path):
    app, rows = application(categorical=False), log_rows(100)
    group_tasks(write_validated(tmp_path / "v", rows, app), str(tmp_path / "out"), app, TRAIN)
    assert read_back(tmp_path / "out") == slow_group(rows, app, TRAIN)
    batch = next(TaskSet.open(str(tmp_path / "out")).batches(1000))
    assert batch.meta_category.shape == (batch.rows, 0)
    assert batch.meta_numeric.shape == (batch.rows, 1)


def test_a_second_run_does_nothing_and_a_changed_cap_does(tmp_path: Path):
    app, rows = application(), log_rows(100)
    validated = write_validated(tmp_path / "v", rows, app)
    first = group_tasks(validated, str(tmp_path / "out"), app, TRAIN)
    assert group_tasks(validated, str(tmp_path / "out"), app, TRAIN).created_at == first.created_at
    assert group_tasks(validated, str(tmp_path / "out"), application(max_samples=2), TRAIN).digest != first.digest


def test_one_sample_one_class_and_all_support_tasks_are_kept(tmp_path: Path):
    app = application()
    template = log_rows(1)[0]

    def row(member: int, day: int, label: int) -> dict[str, Any]:
        return template | {
            "member_id": member,
            "event_time": datetime(2026, 3, day, 12, tzinfo=UTC),
            "row": 10 * member + day,
            "label": label,
        }

    rows = [row(1, 2, 1), *(row(2, day, 0) for day in (1, 2, 3, 4)), *(row(3, day, day % 2) for day in (1, 2))]
    validated = write_validated(tmp_path / "v", rows, app, 1)
    group_tasks(validated, str(tmp_path / "train"), app, TRAIN)
    group_tasks(validated, str(tmp_path / "test"), app, TEST)

    def query(folder: str) -> dict[str, list[bool]]:
        return {name: [row[3] for row in found] for name, found in read_back(tmp_path / folder).items()}

    assert query("train") == {"1": [True], "2": [False, False, False, True], "3": [False, True]}
    assert query("test") == {"1": [False], "2": [False, False, False, True], "3": [False, False]}


def test_data_that_failed_validation_is_refused(tmp_path: Path):
    app = application()
    validated = write_validated(tmp_path / "v", log_rows(20), app, passed=False)
    with pytest.raises(DataError, match="did not pass validation"):
        group_tasks(validated, str(tmp_path / "out"), app, TRAIN)


def test_a_split_outside_the_validated_window_is_refused(tmp_path: Path):
    app = application()
    validated = write_validated(tmp_path / "v", log_rows(20), app)
    longer = TaskSplit(name="recent", window=Window(start=date(2026, 2, 28), end=date(2026, 3, 5)))
    with pytest.raises(
        DataError, match=r"validated \[2026-03-01, 2026-03-05\), but the recent tasks need \[2026-02-28"
    ):
        group_tasks(validated, str(tmp_path / "out"), app, longer)


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_file_that_is_not_the_validated_one_is_refused(tmp_path: Path, damage: str):
    app = application()
    validated = write_validated(tmp_path / "v", log_rows(100), app)
    path = tmp_path / "v" / "kept-2.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if damage == "missing":
        path.unlink()
    with pytest.raises(IntegrityError, match=r"kept-2\.parquet"):
        group_tasks(validated, str(tmp_path / "out"), app, TRAIN)
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_an_empty_window_names_the_days_there_are(tmp_path: Path):
    app = application()
    later = TaskSplit(name="recent", window=Window(start=date(2026, 4, 1), end=date(2026, 4, 3)))
    validated = write_validated(tmp_path / "v", log_rows(200), app, window=later.window)
    with pytest.raises(DataError, match=r"\[2026-04-01, 2026-04-03\).*the days 2026-02-28 to 2026-03-06"):
        group_tasks(validated, str(tmp_path / "out"), app, later)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visits": ...}, "column visits missing"),
        ({"visits": "many"}, "column visits: a numeric feature"),
        ({"member_id": None}, r"column member_id, row \d+: null"),
        ({"member_id": 1.5}, "column member_id: a task key"),
        ({"label": 0.5}, "column label: needs integers"),
    ],
    ids=str,
)
def test_bad_columns_are_named_with_their_file(tmp_path: Path, change: dict[str, Any], message: str):
    app = application()
    rows = [{k: v for k, v in (row | change).items() if v is not ...} for row in log_rows(30)]
    with pytest.raises(DataError, match=rf"kept-0\.parquet: .*{message}"):
        group_tasks(write_validated(tmp_path / "v", rows, app), str(tmp_path / "out"), app, TRAIN)


def test_a_naive_event_time_is_refused(tmp_path: Path):
    app = application()
    rows = [row | {"event_time": row["event_time"].replace(tzinfo=None)} for row in log_rows(30)]
    validated = write_validated(tmp_path / "v", rows, app, zone=None)
    with pytest.raises(DataError, match="column event_time: needs timestamps with a time zone"):
        group_tasks(validated, str(tmp_path / "out"), app, TRAIN)


def test_a_killed_run_leaves_nothing_and_the_next_one_finishes(tmp_path: Path):
    app, rows = application(), log_rows(100)
    validated = write_validated(tmp_path / "v", rows, app)
    program = (
        "import os, signal, sys\n"
        "from limaml.config import application_from_parameter\n"
        "from limaml.data import group_job, tasks\n"
        "from limaml.windows import TaskSplit\n"
        "group_job.ShardWriter.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "app, split = application_from_parameter(sys.argv[3]), TaskSplit.model_validate_json(sys.argv[4])\n"
        "tasks.group_tasks(sys.argv[1], sys.argv[2], app, split)\n"
    )
    arguments = [validated, str(tmp_path / "out"), app.model_dump_json(), TRAIN.model_dump_json()]
    killed = subprocess.run([sys.executable, "-c", program, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    group_tasks(validated, str(tmp_path / "out"), app, TRAIN)
    assert read_back(tmp_path / "out") == slow_group(rows, app, TRAIN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "v"]
