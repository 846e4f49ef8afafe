"""What rows hold, as one number: equal numbers mean that what was made of them is still right.

64 bits of XXH3 over the rows' bytes, column after column: two sets of rows that differ meet about once in 2⁶⁴ pairs. It
is no protection against rows made up to collide.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from limaml.data.batches import TaskBatch

Digests = npt.NDArray[np.uint64]

# Everything an embedding is made of, and the time, which is stored beside it.
_READ = ("label", "event_time", "meta_numeric", "meta_category", "other_numeric", "other_category")


def support_digests(batch: TaskBatch) -> Digests:
    """[T] digests of the tasks' support rows, as the network reads them and in their order.

    They are the same whatever else is in the batch; a task without support has 0.
    """
    digests = np.zeros(batch.tasks, np.uint64)
    tasks = np.flatnonzero(batch.support)
    starts = batch.offsets[tasks]
    digests[tasks] = _digests((getattr(batch, name) for name in _READ), starts, starts + batch.support[tasks])
    return digests


def row_digests(*columns: npt.NDArray) -> Digests:
    """[R] digests of the rows of arrays [R] or [R, n], side by side."""
    rows = len(columns[0])
    starts = np.arange(rows)
    return _digests(columns, starts, starts + 1)


def _digests(columns: Iterable[npt.NDArray], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> Digests:
    """The digest of each range of rows: each column's is the seed of the next one's."""
    digests = [0] * len(starts)
    for column in columns:
        if column.size:
            view = np.ascontiguousarray(column).reshape(-1).data.cast("B")
            width = column.nbytes // len(column)
            ranges = zip((starts * width).tolist(), (stops * width).tolist(), digests, strict=True)
            digests = [xxh3_64_intdigest(view[start:stop], seed) for start, stop, seed in ranges]
    return np.array(digests, np.uint64)
