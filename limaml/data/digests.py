"""What a task's support rows hold, as one number: equal numbers mean that an embedding made of them is still right.

Each row's 32-bit words are multiplied by keys and summed, twice with keys of their own; what that makes of a row is
mixed with its place among the task's rows. Two rows that differ meet in both sums about once in 2⁶⁴ pairs, whatever the
features are. It is no protection against rows made up to collide.
"""

import numpy as np
import numpy.typing as npt

from limaml.data.batches import TaskBatch

Words = npt.NDArray[np.uint64]

# Everything an embedding is made of, and the time, which is stored beside it.
_READ = ("label", "event_time", "meta_numeric", "meta_category", "other_numeric", "other_category")
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def support_digests(batch: TaskBatch) -> Words:
    """[T] uint64 digests of the tasks' support rows, as the network reads them and in their order.

    They are the same on every machine and whatever else is in the batch; a task without support has 0.
    """
    row_R = row_digests(*(getattr(batch, name) for name in _READ))
    place_R = np.arange(batch.rows, dtype=np.int64) - np.repeat(batch.offsets[:-1], batch.lengths)
    row_R = np.where(batch.is_query, np.uint64(0), _mixed(row_R + place_R.astype(np.uint64) * _GOLDEN))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(row_R, dtype=np.uint64)])
    return sums[batch.offsets[1:]] - sums[batch.offsets[:-1]]


def row_digests(*columns: npt.NDArray) -> Words:
    """[R] uint64 digests of the rows of arrays [R] or [R, n] of 32- or 64-bit numbers, side by side."""
    rows = len(columns[0])
    first, second = np.zeros(rows, np.uint64), np.zeros(rows, np.uint64)
    before = 0
    for column in columns:
        if not column.size:
            continue
        words = np.ascontiguousarray(column).view(np.uint32).reshape(rows, -1)
        number = np.arange(before, before + words.shape[1], dtype=np.uint64) * np.uint64(2)
        for sums, lane in ((first, np.uint64(0)), (second, np.uint64(1))):
            sums += np.einsum("rw,w->r", words, _mixed((number + lane) * _GOLDEN), dtype=np.uint64, casting="unsafe")
        before += words.shape[1]
    return _mixed(first) + second


def _mixed(words: Words) -> Words:
    """Every bit of a word depends on all of its bits (the finalizer of SplitMix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
