"""Shards: what is read back, what is not read, and how features are stored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.data import shards
from limaml.data.batches import TaskBatch
from limaml.data.shards import ShardWriter, read_row_group, row_groups, support_parts
from limaml.errors import DataError
from limaml.schema import TIMESTAMP, task_set_schema
from tests.limaml.data.test_batches import by_task, make_batch

WIDTHS = {"meta_numeric": 3, "meta_category": 0, "other_numeric": 2, "other_category": 1}


def write(path: Path, batch: TaskBatch) -> Path:
    schema = task_set_schema(**WIDTHS)
    made = {
        "task_id": pa.array(np.array(batch.task_ids, object)[batch.task_of_row], pa.string()),
        "event_time": pa.array(batch.event_time).cast(TIMESTAMP),
        "row_id": pa.array(batch.row_id),
        "label": pa.array(batch.label.astype(np.int8)),
        "is_query": pa.array(batch.is_query),
    }
    columns = [
        made[field.name]
        if field.name in made
        else pa.array(list(getattr(batch, field.name)), pa.list_(field.type.value_type, field.type.list_size))
        for field in schema
    ]
    with ShardWriter(path, schema) as writer:
        writer.write(pa.Table.from_arrays(columns, schema=schema), batch.lengths)
    return path


def support_batches(file: pq.ParquetFile, tasks: int, rows: int) -> list[TaskBatch]:
    """The support rows of every task that has any, part by part."""
    return [
        group.support_only(part)
        for group in row_groups(file, WIDTHS)
        for part in support_parts(group, np.flatnonzero(group.support), tasks, rows)
    ]


@pytest.fixture
def batch() -> TaskBatch:
    generator = np.random.default_rng(1)
    lengths = generator.integers(1, 9, 40)
    return make_batch(lengths.tolist(), [int(generator.integers(0, n + 1)) for n in lengths])


@pytest.fixture
def path(batch: TaskBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shards, "ROW_GROUP_ROWS", 60)
    return write(tmp_path / "shard.parquet", batch)


def test_row_groups_hold_the_tasks_as_they_were(batch: TaskBatch, path: Path) -> None:
    with pq.ParquetFile(path) as file:
        assert file.num_row_groups > 2
        read = [read_row_group(file, group, WIDTHS) for group in range(file.num_row_groups)]
    assert by_task(TaskBatch.concatenate(read)) == by_task(batch)


def test_wide_rows_make_row_groups_of_fewer(batch: TaskBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 28 * 60)
    with pq.ParquetFile(write(tmp_path / "shard.parquet", batch)) as file:
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert len(rows) > 2
    assert max(rows) <= 60


def test_row_ids_are_read_only_where_asked_for(batch: TaskBatch, path: Path) -> None:
    with pq.ParquetFile(path) as file:
        read = read_row_group(file, 0, WIDTHS, row_ids=False)
    assert not read.row_id.any()
    assert read.event_time.tolist() == batch.event_time[: read.rows].tolist()


@pytest.mark.parametrize(("tasks", "rows"), [(1, 1000), (3, 1000), (1000, 7), (4, 9), (1000, 1000)])
def test_support_parts_hold_every_support_row_once(batch: TaskBatch, path: Path, tasks: int, rows: int) -> None:
    with pq.ParquetFile(path) as file:
        parts = support_batches(file, tasks, rows)
        groups = file.num_row_groups
    assert max(part.tasks for part in parts) <= tasks
    assert all(part.rows <= rows or part.tasks == 1 for part in parts)
    assert len(parts) >= groups
    expected = replace(batch.support_only(), row_id=np.zeros(int(batch.support.sum()), np.int64))
    assert sorted(by_task(TaskBatch.concatenate(parts))) == sorted(by_task(expected))


def test_support_parts_come_by_length(path: Path) -> None:
    with pq.ParquetFile(path) as file:
        lengths = [part.lengths.tolist() for part in support_batches(file, 1000, 1000)]
    assert all(group == sorted(group) for group in lengths)


def test_a_shard_without_tasks_is_a_file(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "empty.parquet", task_set_schema(**WIDTHS)):
        pass
    with pq.ParquetFile(tmp_path / "empty.parquet") as file:
        assert file.metadata.num_rows == 0
        assert support_batches(file, 7, 7) == []


@pytest.mark.parametrize(("noise", "expected"), [(True, "UNCOMPRESSED"), (False, "ZSTD")], ids=["noise", "repeated"])
def test_features_are_compressed_where_that_saves(noise: bool, expected: str, tmp_path: Path) -> None:
    batch = make_batch([4000], [4000])
    values = np.random.default_rng(0).standard_normal((4000, 3), np.float32)
    batch.meta_numeric[:] = values if noise else values[:1]
    metadata = pq.ParquetFile(write(tmp_path / "shard.parquet", batch)).metadata
    columns = {metadata.row_group(0).column(i).path_in_schema: i for i in range(metadata.num_columns)}
    assert metadata.row_group(0).column(columns["meta_numeric"]).compression == expected


def test_another_format_or_width_is_refused(path: Path, tmp_path: Path) -> None:
    with pq.ParquetFile(path) as file, pytest.raises(DataError, match="other_numeric is not 12 bytes a row; group"):
        read_row_group(file, 0, WIDTHS | {"other_numeric": 3})
    pq.write_table(pa.table({"meta_numeric": pa.array([[1.0, 2.0, 3.0]])}), tmp_path / "lists.parquet")
    with pq.ParquetFile(tmp_path / "lists.parquet") as file, pytest.raises(DataError, match="meta_numeric is not 12"):
        read_row_group(file, 0, WIDTHS)
