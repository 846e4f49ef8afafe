"""What the mathematics reads: batches of tasks as flat ragged rows.

Shapes: T tasks, R rows of all tasks together, Mn/Mc numeric/categorical meta features, On/Oc the other features.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TaskBatch:
    """T tasks as flat rows: the rows of a task are contiguous and chronological, support before query.

    Attributes:
        task_ids: canonical text of each task's key, length T.
        offsets: [T + 1] int64; task t owns rows `offsets[t]:offsets[t + 1]`.
        support: [T] int64; how many of a task's rows, from its first on, are its support set (may be 0 or all).
        label: [R] float32, 0 or 1.
        event_time: [R] int64, microseconds since the epoch, UTC.
        row_id: [R] int64, 0 where the application names no such column.
        meta_numeric: [R, Mn] float32, NaN for null.
        meta_category: [R, Mc] int64 codes, 0 for null.
        other_numeric: [R, On] float32, NaN for null.
        other_category: [R, Oc] int64 codes, 0 for null.
    """

    task_ids: list[str]
    offsets: npt.NDArray[np.int64]
    support: npt.NDArray[np.int64]
    label: npt.NDArray[np.float32]
    event_time: npt.NDArray[np.int64]
    row_id: npt.NDArray[np.int64]
    meta_numeric: npt.NDArray[np.float32]
    meta_category: npt.NDArray[np.int64]
    other_numeric: npt.NDArray[np.float32]
    other_category: npt.NDArray[np.int64]

    @property
    def tasks(self) -> int:
        """T."""
        return len(self.task_ids)

    @property
    def rows(self) -> int:
        """R."""
        return len(self.label)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[T] rows of each task."""
        return np.diff(self.offsets)

    @property
    def task_of_row(self) -> npt.NDArray[np.int64]:
        """[R] index of each row's task."""
        return np.repeat(np.arange(self.tasks), self.lengths)

    @property
    def is_query(self) -> npt.NDArray[np.bool_]:
        """[R] whether a row is in its task's query set."""
        position = np.arange(self.rows) - np.repeat(self.offsets[:-1], self.lengths)
        return position >= np.repeat(self.support, self.lengths)
