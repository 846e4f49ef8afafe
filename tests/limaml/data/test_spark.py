"""Task grouping on Spark against the embedded engine: the same bytes. Spark runs in local mode."""

import json
import os
import random
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from limaml import storage
from limaml.config import Application, parse_application
from limaml.data.tasks import group_tasks
from limaml.errors import DataError, IntegrityError
from limaml.manifest import read_manifest
from limaml.schema import ALSO
from limaml.windows import TaskSplit, Window
from tests.limaml.data.test_group_definitions import KINDS, TYPES, with_also
from tests.limaml.data.test_tasks import START, TEST, TRAIN, application, log_rows, write_validated

IDS = ["Łódź", "a|b", "a\\", "", "日本", "😀", "e\u0301", "é", "null", "0"]


def on(engine: str, app: Application, **grouping: Any) -> Application:
    content = app.model_dump(mode="json")
    return parse_application(content | {"grouping": content["grouping"] | grouping | {"engine": engine}}, "tests")


def assert_same(tmp_path: Path, app: Application, rows: list[dict[str, Any]], split: TaskSplit) -> None:
    validated = write_validated(tmp_path / "validated", rows, app)
    made = {
        engine: group_tasks(validated, str(tmp_path / engine), on(engine, app), split)
        for engine in ("embedded", "spark")
    }
    assert made["spark"].files == made["embedded"].files
    assert made["spark"].details == made["embedded"].details
    assert made["spark"].digest == made["embedded"].digest
    for entry in made["embedded"].files:
        assert (tmp_path / "spark" / entry.path).read_bytes() == (tmp_path / "embedded" / entry.path).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embedded", "spark", "validated"]


def test_the_same_bytes_for_several_definitions(tmp_path: Path) -> None:
    assert_same(tmp_path, with_also(application(), KINDS, TYPES), log_rows(), TEST)


def test_empty_shards_are_files_too(tmp_path: Path) -> None:
    app = on("spark", application(), shards=9)
    assert_same(tmp_path, app, log_rows(30, members=2), TRAIN)
    manifest = read_manifest(str(tmp_path / "spark"))
    assert {entry.rows for entry in manifest.files} > {0}
    assert len(manifest.files) == 9


def _random_case(seed: int) -> tuple[Application, list[dict[str, Any]], TaskSplit]:
    generator = random.Random(seed)
    keys = generator.choice([["member_id"], ["city"], ["city", "member_id"], ["type", "city"]])
    app = application(keys, generator.choice([2, 7, 1000]), support_fraction=generator.choice([0.0, 0.29, 0.75]))
    app = on("spark", app, shards=generator.randrange(1, 8), buckets=generator.randrange(1, 40))
    rows = log_rows(generator.randrange(1, 800), generator.randrange(1, 100), seed)
    for row in rows:
        row["city"] = generator.choice(IDS)
        row["event_time"] += timedelta(microseconds=generator.randrange(10**6))
    rows.append({**rows[0], "event_time": datetime(2026, 3, 2, tzinfo=UTC)})
    split = generator.choice([TRAIN, TEST, TaskSplit(name="recent", window=TRAIN.window, boundary=date(2026, 3, 5))])
    return app, rows, split


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(12))
def test_the_same_bytes_for_random_tasks(tmp_path: Path, seed: int) -> None:
    assert_same(tmp_path, *_random_case(seed))


def test_what_a_worker_refuses_is_the_error_the_embedded_engine_raises(tmp_path: Path) -> None:
    app = on("spark", application())
    rows = log_rows(40)
    validated = write_validated(tmp_path / "changed", rows, app)
    (tmp_path / "changed" / "kept-1.parquet").write_bytes(b"")
    with pytest.raises(IntegrityError, match="changed after it was written"):
        group_tasks(validated, str(tmp_path / "out"), app, TRAIN)
    keyless = {**rows[0], "member_id": None, "event_time": datetime(2026, 3, 2, tzinfo=UTC)}
    validated = write_validated(tmp_path / "null", [*rows, keyless], app)
    with pytest.raises(DataError, match=r"column member_id, row \d+: null in a task key"):
        group_tasks(validated, str(tmp_path / "out"), app, TRAIN)
    assert not (tmp_path / "out").exists()


def test_a_window_without_rows_says_what_days_there_are(tmp_path: Path) -> None:
    app = on("spark", application())
    later = Window(start=START + timedelta(days=30), end=START + timedelta(days=31))
    validated = write_validated(tmp_path / "validated", log_rows(40), app, window=later)
    with pytest.raises(DataError, match="validated data has the days 2026-02-28 to 2026-03-06"):
        group_tasks(validated, str(tmp_path / "out"), app, TaskSplit(name="recent", window=later))


@pytest.mark.heavy
def test_a_bucket_is_grouped_by_workers_that_know_no_hadoop(tmp_path: Path, s3: str) -> None:
    """By the command, as a SparkApplication runs it: workers are given this environment and nothing else."""
    app = on("spark", application())
    path = tmp_path / "app.yaml"
    windows = {"train_days": 2, "validation_days": 2, "test_days": 1, "lookback_days": 2}
    path.write_text(json.dumps(app.model_dump(mode="json") | {"windows": windows}))
    window = Window(start=START, end=START + timedelta(days=5))
    validated = write_validated(f"{s3}/validated", log_rows(), app, window=window)
    digests = {}
    for engine in ("embedded", "spark"):
        content = json.loads(path.read_text())
        content["grouping"]["engine"] = engine
        path.write_text(json.dumps(content))
        output = f"{s3}/{engine}"
        command = [sys.executable, "-m", "pipelines.cli", "group", "--app", str(path), "--validated", validated]
        command += ["--output", output, "--date", "2026-03-06", "--split", "train", "--json"]
        ended = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        digests[engine] = json.loads(ended.stdout.splitlines()[-1])["digest"]
    assert digests["spark"] == digests["embedded"]
    assert [name for name in storage.list_directories(s3) if "parts" in name] == []
    assert ALSO not in read_manifest(f"{s3}/spark").details
