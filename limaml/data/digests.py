"""What rows hold, as one number: equal numbers mean that what was made of them is still right.

64 bits of XXH3 over the rows' bytes, column after column: two sets of rows that differ meet about once in 2⁶⁴ pairs. It
is no protection against rows made up to collide.
"""

from collections.abc import Iterable, Iterator

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
    ranges = zip(starts.tolist(), (starts + batch.support[tasks]).tolist(), strict=True)
    digests[tasks] = list(_digests((getattr(batch, name) for name in _READ), ranges))
    return digests


def row_digests(*columns: npt.NDArray) -> Digests:
    """[R] digests of the rows of arrays [R] or [R, n], side by side."""
    rows = len(columns[0])
    return np.fromiter(_digests(columns, zip(range(rows), range(1, rows + 1), strict=True)), np.uint64, rows)


def _digests(columns: Iterable[npt.NDArray], ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    """The digest of each range of rows: each column's is the seed of the next one's."""
    views = [
        (np.ascontiguousarray(column).reshape(-1).data.cast("B"), column.nbytes // len(column))
        for column in columns
        if column.size
    ]
    for start, stop in ranges:
        digest = 0
        for view, width in views:
            digest = xxh3_64_intdigest(view[start * width : stop * width], digest)
        yield digest
