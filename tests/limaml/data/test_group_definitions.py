"""Grouping by several task definitions, against the same rows grouped by each alone."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.config import Application, parse_application
from limaml.data.features import hash_texts
from limaml.data.tasks import TaskSet, group_tasks, training_boundary
from limaml.errors import ConfigError, DataError
from limaml.schema import ALSO, task_id
from limaml.windows import TaskSplit, Window
from tests.limaml.data.test_tasks import (
    START,
    TEST,
    TRAIN,
    application,
    log_rows,
    read_back,
    slow_group,
    write_validated,
)

KINDS = {"name": "member_kind", "keys": ["member_id", "type"], "meta": ["type"], "max_samples": 4}
TYPES = {"name": "kind", "keys": ["type"], "meta": ["type", "age"], "max_samples": 30}


def with_also(app: Application, *also: dict[str, Any]) -> Application:
    return parse_application(app.model_dump(mode="json") | {"also": list(also)}, "tests")


def alone(app: Application, definition: dict[str, Any]) -> Application:
    """The application whose only tasks are a further definition's."""
    task = {"keys": definition["keys"], "max_samples": definition["max_samples"]}
    return parse_application(app.model_dump(mode="json") | {"task": task, "also": []}, "tests")


def rows_of_definition(output: Path, name: str) -> dict[str, list[tuple]]:
    return read_back(output / name)


def test_every_definition_is_grouped_as_if_alone(tmp_path: Path) -> None:
    rows = log_rows()
    app = with_also(application(), KINDS, TYPES)
    validated = write_validated(tmp_path / "validated", rows, app)
    manifest = group_tasks(validated, str(tmp_path / "tasks"), app, TEST)
    assert rows_of_definition(tmp_path / "tasks", "") == slow_group(rows, application(), TEST)
    for definition in (KINDS, TYPES):
        expected = slow_group(rows, alone(app, definition), TEST)
        assert rows_of_definition(tmp_path / "tasks", definition["name"]) == expected
        counts = manifest.details[ALSO][definition["name"]]
        assert counts["tasks"] == len(expected)
        assert counts["rows"] == sum(map(len, expected.values()))
    assert TaskSet.open(str(tmp_path / "tasks")).further == ["member_kind", "kind"]


def test_rows_carry_their_other_tasks(tmp_path: Path) -> None:
    rows = log_rows()
    app = with_also(application(), KINDS, TYPES)
    by_row = {row["row"]: row for row in rows}
    validated = write_validated(tmp_path / "validated", rows, app)
    group_tasks(validated, str(tmp_path / "tasks"), app, TEST)
    whole = TaskSet.open(str(tmp_path / "tasks"))
    seen = 0
    for name in ("", "member_kind", "kind"):
        for batch in whole.of(name).batches(7):
            for number, row_id in enumerate(batch.row_id):
                row = by_row[row_id]
                texts = [task_id(row["member_id"], row["type"]), task_id(row["type"])]
                np.testing.assert_array_equal(batch.also[number], hash_texts(pa.array(texts)))
                seen += 1
    assert seen == sum(whole.of(name).rows for name in ("", "member_kind", "kind"))
    batch = next(whole.batches(9))
    chosen = batch.take([4, 2])
    np.testing.assert_array_equal(chosen.also[: chosen.lengths[0]], batch.also[batch.offsets[4] : batch.offsets[5]])
    assert batch.support_only().also.shape == (batch.support.sum(), 2)


def test_the_first_definition_is_what_it_is_alone(tmp_path: Path) -> None:
    """To the last value, in the same order: only the column of other tasks comes on top."""
    rows, app = log_rows(), application()
    both = with_also(app, KINDS)
    for name, each in (("one", app), ("both", both)):
        validated = write_validated(tmp_path / f"validated-{name}", rows, each)
        group_tasks(validated, str(tmp_path / name), each, TEST)
    for path in sorted((tmp_path / "one").glob("shard=*.parquet")):
        with_codes = pq.read_table(tmp_path / "both" / path.name)
        assert with_codes.drop_columns([ALSO]).equals(pq.read_table(path))
    assert not list((tmp_path / "one").glob("*/"))


def test_training_leaves_the_others_to_the_batch(tmp_path: Path) -> None:
    app = with_also(application(), KINDS)
    validated = write_validated(tmp_path / "validated", log_rows(), app)
    group_tasks(validated, str(tmp_path / "tasks"), app, TRAIN)
    tasks = TaskSet.open(str(tmp_path / "tasks"))
    assert tasks.further == []
    assert next(tasks.batches(3)).also.shape[1] == 1
    with pytest.raises(DataError, match="holds no tasks of 'member_kind'"):
        tasks.of("member_kind")


def test_tasks_across_the_first_ones_are_split_by_time(tmp_path: Path) -> None:
    nested, across = with_also(application(), KINDS), with_also(application(), KINDS, TYPES)
    assert training_boundary(application(), TRAIN) == TRAIN
    assert training_boundary(nested, TRAIN) == TRAIN
    assert training_boundary(across, TRAIN).boundary == date(2026, 3, 4), "three of four days are support"
    assert training_boundary(across, TEST) == TEST
    validated = write_validated(tmp_path / "validated", log_rows(), across)
    group_tasks(validated, str(tmp_path / "tasks"), across, TRAIN)
    boundary = np.datetime64("2026-03-04", "us").astype(np.int64)
    for batch in TaskSet.open(str(tmp_path / "tasks")).batches(50):
        np.testing.assert_array_equal(batch.is_query, batch.event_time >= boundary)
    day = TaskSplit(name="train", window=Window(start=START, end=date(2026, 3, 2)))
    with pytest.raises(ConfigError, match=r"windows.train_days: 1, but .* at least 2"):
        training_boundary(across, day)
