"""The reader of task sets: every task once, shuffled by (seed, epoch), similar lengths together."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.data import shards, tasks
from limaml.data.batches import TaskBatch
from limaml.data.tasks import TaskSet, group_tasks
from limaml.errors import IntegrityError
from tests.limaml.data.test_tasks import TRAIN, application, log_rows, read_back, stored_features, write_validated


@pytest.fixture(scope="module")
def task_set(tmp_path_factory: pytest.TempPathFactory) -> TaskSet:
    """About 150 tasks in three shards of many small row groups."""
    folder = tmp_path_factory.mktemp("task_set")
    app = application(("member_id", "type"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROW_GROUP_ROWS", 25)
        group_tasks(write_validated(folder / "v", log_rows(), app), str(folder / "out"), app, TRAIN)
    return TaskSet.open(str(folder / "out"))


def flatten(batches: Iterable[TaskBatch]) -> dict[str, list[tuple]]:
    result: dict[str, list[tuple]] = {}
    for batch in batches:
        for index, name in enumerate(batch.task_ids):
            assert name not in result
            rows = range(batch.offsets[index], batch.offsets[index + 1])
            result[name] = [(batch.event_time[r], batch.row_id[r], batch.label[r], batch.is_query[r]) for r in rows]
    return result


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("pool_rows", [1, 100, 10**6])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_hold_every_task_once(
    task_set: TaskSet, seed: int | None, pool_rows: int, size: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tasks, "POOL_ROWS", pool_rows)
    batches = list(task_set.batches(size, seed))
    expected = {
        name: [(int(row[0].timestamp() * 1e6), *row[1:]) for row in rows]
        for name, rows in read_back(Path(task_set.uri)).items()
    }
    assert flatten(batches) == expected
    assert len(batches) == task_set.batch_count(size)
    assert all(batch.tasks == size for batch in batches[:-1])
    assert sum(batch.rows for batch in batches) == task_set.rows


def test_without_a_seed_batches_follow_the_files(task_set: TaskSet):
    files = [pq.read_table(path) for path in sorted(Path(task_set.uri).glob("shard=*.parquet"))]
    table = pa.concat_tables(files)
    batch = TaskBatch.concatenate(list(task_set.batches(10)))
    assert batch.row_id.tolist() == table.column("row_id").to_pylist()
    np.testing.assert_array_equal(batch.meta_numeric, stored_features(table, "meta_numeric", "<f4"))
    np.testing.assert_array_equal(batch.other_category, stored_features(table, "other_category", "<i8"))


def test_epochs_differ_and_a_seed_repeats(task_set: TaskSet):
    def order(seed: int, epoch: int) -> list[list[str]]:
        return [batch.task_ids for batch in task_set.batches(8, seed, epoch)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_a_changed_shard_is_refused(tmp_path: Path, task_set: TaskSet):
    copy = tmp_path / "copy"
    shutil.copytree(task_set.uri, copy)
    path = copy / "shard=001.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"shard=001\.parquet"):
        TaskSet.open(str(copy))
    assert TaskSet.open(str(copy), verify=False).tasks == task_set.tasks


def test_a_bucket_in_s3_holds_the_same_bytes(tmp_path: Path, s3: str):
    app, rows = application(), log_rows(200)
    local = group_tasks(write_validated(tmp_path / "v", rows, app), str(tmp_path / "out"), app, TRAIN)
    remote = group_tasks(write_validated(f"{s3}/v", rows, app), f"{s3}/out", app, TRAIN)
    assert [entry.sha256 for entry in remote.files] == [entry.sha256 for entry in local.files]
    assert flatten(TaskSet.open(f"{s3}/out").batches(9)) == flatten(TaskSet.open(str(tmp_path / "out")).batches(9))
