"""Parts of a task set: every task in exactly one, whatever the files look like, and about equally many rows each."""

from pathlib import Path

import pytest

from limaml.data import shards
from limaml.data.batches import TaskBatch
from limaml.data.tasks import TaskSet, group_tasks
from tests.limaml.data.test_tasks import TRAIN, application, log_rows, write_validated


@pytest.fixture(scope="module", params=[25, 1 << 17], ids=["many row groups", "few row groups"])
def task_set(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TaskSet:
    """About 150 tasks in three shards."""
    folder = tmp_path_factory.mktemp("pieces")
    app = application(("member_id", "type"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROW_GROUP_ROWS", request.param)
        group_tasks(write_validated(folder / "v", log_rows(), app), str(folder / "out"), app, TRAIN)
    return TaskSet.open(str(folder / "out"))


@pytest.mark.parametrize("parts", [1, 2, 3, 16])
@pytest.mark.parametrize("seed", [None, 4])
def test_every_task_is_in_one_part_with_all_its_rows(task_set: TaskSet, parts: int, seed: int | None) -> None:
    whole = TaskBatch.concatenate(list(task_set.batches(1000)))
    length = dict(zip(whole.task_ids, whole.lengths.tolist(), strict=True))
    seen: list[str] = []
    rows = []
    for number in range(parts):
        part = task_set.part(number, parts)
        batches = list(part.batches(7, seed))
        ids = [task for batch in batches for task in batch.task_ids]
        assert part.tasks == len(ids)
        assert len(batches) == part.batch_count(7)
        assert [n for batch in batches for n in batch.lengths] == [length[task] for task in ids]
        seen += ids
        rows.append(sum(batch.rows for batch in batches))
    assert sorted(seen) == sorted(length)
    assert max(rows) < 1.25 * task_set.rows / parts + 25


def test_parts_stay_the_same_from_epoch_to_epoch_and_have_an_order_of_their_own(task_set: TaskSet) -> None:
    def order(number: int, epoch: int) -> list[str]:
        return [task for batch in task_set.part(number, 2).batches(8, 1, epoch) for task in batch.task_ids]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert sorted(order(0, 0)) == sorted(order(0, 1))
    # Alone, a process reads what it read before there were parts.
    assert [batch.task_ids for batch in task_set.part(0, 1).batches(8, 1, 2)] == [
        batch.task_ids for batch in task_set.batches(8, 1, 2)
    ]


def test_more_parts_than_tasks_leaves_some_empty(tmp_path: Path) -> None:
    app = application()
    rows = [row for row in log_rows(40) if row["member_id"] < 3]
    group_tasks(write_validated(tmp_path / "v", rows, app), str(tmp_path / "out"), app, TRAIN)
    few = TaskSet.open(str(tmp_path / "out"))
    parts = [few.part(number, 40) for number in range(40)]
    assert sum(part.tasks for part in parts) == few.tasks < 40
    assert all(len(list(part.batches(5, 0))) == (part.tasks > 0) for part in parts)
