"""Support digests: equal exactly where the support rows are, alone or in any company."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xxhash

from limaml.data.batches import TaskBatch
from limaml.data.digests import support_digests
from tests.limaml.data.test_batches import make_batch

FEATURES = ("meta_numeric", "meta_category", "other_numeric", "other_category")
ARRAYS = ("label", "event_time", "meta_numeric", "other_numeric", "other_category")


@pytest.fixture
def batch() -> TaskBatch:
    return make_batch([3, 5, 1, 4], [2, 5, 0, 3])


def changed(batch: TaskBatch, **arrays: Any) -> list[bool]:
    """Which tasks' digests differ once these arrays replace the batch's."""
    return (support_digests(replace(batch, **arrays)) != support_digests(batch)).tolist()


def test_they_are_the_same_in_any_company(batch: TaskBatch) -> None:
    digests = support_digests(batch)
    order = [3, 0, 1]
    assert support_digests(batch.take(order)).tolist() == digests[order].tolist()
    assert support_digests(batch.support_only([1, 3])).tolist() == digests[[1, 3]].tolist()
    assert digests[2] == 0


def test_they_are_what_their_definition_says(batch: TaskBatch) -> None:
    """They lie on disk from one day to the next: another function would make every task look changed."""
    expected = []
    for offset, support in zip(batch.offsets.tolist(), batch.support.tolist(), strict=False):
        digest = 0
        for name in ("label", "event_time", *FEATURES):
            rows = getattr(batch, name)[offset : offset + support].tobytes()
            digest = xxhash.xxh3_64(rows, seed=digest).intdigest() if rows else digest
        expected.append(digest)
    assert support_digests(batch).tolist() == expected


@pytest.mark.parametrize("name", ARRAYS)
def test_any_value_of_a_support_row_counts_and_none_of_a_query_row(batch: TaskBatch, name: str) -> None:
    values = getattr(batch, name).copy()
    values.reshape(batch.rows, -1)[4, -1] += 1  # the second task's second row
    values.reshape(batch.rows, -1)[2, 0] += 1  # the first task's query row
    assert changed(batch, **{name: values}) == [False, True, False, False]


def test_what_does_not_reach_the_network_does_not_count(batch: TaskBatch) -> None:
    also = np.arange(2 * batch.rows).reshape(-1, 2)
    assert not any(changed(batch, row_id=batch.row_id + 1, also=also, task_ids=list("abcd")))


def test_the_order_of_rows_and_of_features_counts(batch: TaskBatch) -> None:
    rows = np.arange(batch.rows)
    rows[[3, 4]] = [4, 3]
    assert changed(batch, **{name: getattr(batch, name)[rows] for name in ARRAYS}) == [False, True, False, False]
    assert changed(batch, meta_numeric=batch.meta_numeric[:, [1, 0, 2]].copy()) == [True, True, False, True]


def test_rows_that_leave_or_come_count(batch: TaskBatch) -> None:
    fewer = replace(batch, support=batch.support - [0, 1, 0, 0])
    assert (support_digests(fewer) != support_digests(batch)).tolist() == [False, True, False, False]


def test_no_two_of_many_alike_rows_meet() -> None:
    """Values that differ in few bits: whole numbers, signs and labels, in one row a task."""
    tasks = 1 << 17
    number = np.arange(tasks)
    batch = replace(
        make_batch([1] * tasks, [1] * tasks),
        label=(number & 1).astype(np.float32),
        event_time=np.zeros(tasks, np.int64),
        meta_numeric=np.stack([(-1.0) ** (number >> bit) for bit in (1, 2, 3)], axis=1).astype(np.float32),
        other_numeric=np.stack([number >> 4 & 15, number >> 8 & 15], axis=1).astype(np.float32),
        other_category=(number >> 12)[:, None],
    )
    assert len(np.unique(support_digests(batch))) == tasks
