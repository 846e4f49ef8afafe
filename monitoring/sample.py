"""A bounded sample of whole tasks: those with the lowest hash of their id, so that two days sample the same members."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from limaml.data.batches import TaskBatch


class TaskSample:
    """Collects whole tasks from a stream of batches, in order of their hash, until `rows` rows are reached.

    The result depends neither on the order nor on the size of the batches. Memory: twice `rows` plus one batch.
    """

    def __init__(self, rows: int) -> None:
        self._budget = rows
        self._hash: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._kept: TaskBatch | None = None
        self._limit = np.iinfo(np.uint64).max

    def add(self, batch: TaskBatch) -> None:
        """Consider the tasks of a batch."""
        hashes = task_hashes(batch.task_ids)
        candidates = np.flatnonzero(hashes <= self._limit)
        if not len(candidates):
            return
        fresh = batch.take(candidates)
        merged = fresh if self._kept is None else TaskBatch.concatenate([self._kept, fresh])
        hashes = np.concatenate([self._hash, hashes[candidates]])
        order = np.argsort(hashes, kind="stable")
        total = np.cumsum(merged.lengths[order])
        inside = max(int(np.searchsorted(total, self._budget, side="right")), 1)
        if inside < len(order):
            self._limit = hashes[order[inside - 1]]
        self._hash = hashes[order[:inside]]
        self._kept = merged.take(order[:inside])

    @property
    def tasks(self) -> TaskBatch | None:
        """The sampled tasks, lowest hash first; None when there was no task."""
        return self._kept


def task_hashes(task_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """[T] uint64, stable across machines and days."""
    digests = b"".join(hashlib.blake2b(task_id.encode(), digest_size=8).digest() for task_id in task_ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
