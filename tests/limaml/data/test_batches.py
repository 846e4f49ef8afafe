"""Operations on ragged batches, against plain loops."""

from dataclasses import replace

import numpy as np
import pytest

from limaml.data.batches import TaskBatch


def make_batch(lengths: list[int], support: list[int], seed: int = 0) -> TaskBatch:
    generator = np.random.default_rng(seed)
    rows = sum(lengths)
    return TaskBatch(
        task_ids=[f"{seed}-{task}" for task in range(len(lengths))],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        support=np.array(support, np.int64),
        label=generator.integers(0, 2, rows).astype(np.float32),
        event_time=generator.integers(0, 1000, rows),
        row_id=np.arange(rows) + 1000 * seed,
        meta_numeric=generator.random((rows, 3), np.float32),
        meta_category=np.empty((rows, 0), np.int64),
        other_numeric=generator.random((rows, 2), np.float32),
        other_category=generator.integers(0, 9, (rows, 1)),
    )


def by_task(batch: TaskBatch) -> list[tuple]:
    """Everything a batch says of each task."""
    result = []
    for task, name in enumerate(batch.task_ids):
        rows = slice(batch.offsets[task], batch.offsets[task + 1])
        arrays = (batch.label, batch.event_time, batch.row_id, batch.meta_numeric, batch.meta_category)
        values = [array[rows].tolist() for array in (*arrays, batch.other_numeric, batch.other_category)]
        result.append((name, int(batch.support[task]), batch.is_query[rows].tolist(), *values))
    return result


@pytest.fixture
def batch() -> TaskBatch:
    return make_batch([3, 1, 4, 2], [2, 0, 4, 1])


@pytest.mark.parametrize("chosen", [[2, 0], [3], [], [1, 1], [0, 1, 2, 3]], ids=str)
def test_take_gives_whole_tasks_in_the_asked_order(batch: TaskBatch, chosen: list[int]):
    every = by_task(batch)
    assert by_task(batch.take(chosen)) == [every[task] for task in chosen]
    assert batch.take(chosen).meta_category.shape == (batch.lengths[chosen].sum(), 0)


def test_concatenate_keeps_every_task(batch: TaskBatch):
    other = make_batch([2, 5], [1, 5], seed=1)
    assert by_task(TaskBatch.concatenate([batch, other, batch])) == by_task(batch) + by_task(other) + by_task(batch)


def test_support_only_drops_query_rows_and_tasks_without_support(batch: TaskBatch):
    support = batch.support_only()
    assert support.task_ids == ["0-0", "0-2", "0-3"]
    assert support.lengths.tolist() == support.support.tolist() == [2, 4, 1]
    assert support.row_id.tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert not support.is_query.any()


def test_rows_know_their_task(batch: TaskBatch):
    assert batch.task_of_row.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 3, 3]
    assert batch.is_query.tolist() == [False, False, True, True, False, False, False, False, False, True]


@pytest.mark.parametrize("tasks", [[0, 2, 3], [3, 0], [1], [], [2, 2]], ids=str)
def test_support_only_of_some_tasks(batch: TaskBatch, tasks: list[int]):
    every = {name: values for name, *values in by_task(batch.support_only())}
    found = by_task(batch.support_only(tasks))
    assert [name for name, *_ in found] == [batch.task_ids[task] for task in tasks if batch.support[task]]
    assert all(values == every[name] for name, *values in found)


def test_support_that_lies_together_is_not_copied():
    batch = make_batch([3, 4, 2], [3, 4, 1])
    assert np.shares_memory(batch.support_only([0, 1]).other_numeric, batch.other_numeric)
    assert not np.shares_memory(batch.support_only([1, 0]).other_numeric, batch.other_numeric)
    assert not np.shares_memory(batch.take([0, 1]).other_numeric, batch.other_numeric)


def test_a_random_day_splits_each_task_at_a_midnight_of_its_own() -> None:
    generator = np.random.default_rng(0)
    lengths = np.array([1, 7, 30, 12])
    hour = 3_600_000_000
    time = np.concatenate([np.sort(generator.integers(0, 10 * 24, n)) * hour for n in lengths])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    batch = replace(make_batch(lengths.tolist(), [0] * 4), event_time=time)
    day = (time + 8 * hour) // (24 * hour)
    seen: list[set[int]] = [set() for _ in lengths]
    for draw in range(400):
        split = batch.split_before_random_day(np.random.default_rng(draw), utc_offset_hours=8)
        assert (split.support < lengths).all()
        for task in range(4):
            first, last = offsets[task], offsets[task + 1]
            seen[task].add(int(split.support[task]))
            boundary = first + split.support[task]
            # All of a day lies on one side: the newest support row is of an earlier day than the oldest query row.
            assert boundary == first or day[boundary - 1] < day[boundary]
            assert boundary < last
    for task in range(4):
        days = day[offsets[task] : offsets[task + 1]]
        assert seen[task] == {int((days < d).sum()) for d in days}  # every day of the task is drawn at times
    again = batch.split_before_random_day(np.random.default_rng(7), 8)
    np.testing.assert_array_equal(again.support, batch.split_before_random_day(np.random.default_rng(7), 8).support)


def test_one_random_day_may_split_all_tasks() -> None:
    generator = np.random.default_rng(0)
    lengths = [5, 7, 30, 1]
    day_us = 86_400_000_000
    time = np.concatenate([np.sort(generator.integers(0, 10 * day_us, n)) for n in lengths])
    batch = replace(make_batch(lengths, [0] * 4), event_time=time)
    starts = set()
    for draw in range(200):
        split = batch.split_before_random_day(np.random.default_rng(draw), 0, together=True)
        oldest_query = time[split.is_query].min()
        assert (time[~split.is_query] < oldest_query // day_us * day_us).all(), (
            "no support row from a query row's day on"
        )
        starts.add(int(oldest_query // day_us))
    assert len(starts) > 5, "days differ"
