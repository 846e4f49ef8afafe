import numpy as np

from monitoring.sample import TaskSample, task_hashes
from tests.monitoring.healthy import day


def collect(rows: int, parts: int, reverse: bool = False) -> TaskSample:
    batch, sample = day(0, 400), TaskSample(rows)
    pieces = np.array_split(np.arange(batch.tasks), parts)
    for piece in reversed(pieces) if reverse else pieces:
        sample.add(batch.take(piece))
    return sample


def test_the_sample_does_not_depend_on_batches() -> None:
    one = collect(1000, 1).tasks
    assert one is not None
    for parts, reverse in ((7, False), (100, True)):
        other = collect(1000, parts, reverse).tasks
        assert other is not None
        assert other.task_ids == one.task_ids
        np.testing.assert_array_equal(other.row_id, one.row_id)


def test_it_holds_whole_tasks_of_lowest_hash_within_the_budget() -> None:
    batch, chosen = day(0, 400), collect(1000, 3).tasks
    assert chosen is not None
    order = np.argsort(task_hashes(batch.task_ids))[: chosen.tasks + 1]
    assert chosen.task_ids == [batch.task_ids[i] for i in order[:-1]]
    assert chosen.rows <= 1000 < chosen.rows + batch.lengths[order[-1]]


def test_one_task_larger_than_the_budget_is_still_a_sample() -> None:
    chosen = collect(1, 5).tasks
    assert chosen is not None
    assert chosen.tasks == 1


def test_no_tasks_no_sample() -> None:
    assert TaskSample(10).tasks is None


def test_hashes_are_stable_across_machines() -> None:
    assert task_hashes(["42", "42|digest"]).tolist() == [8820412187630416983, 8378451176811817184]
