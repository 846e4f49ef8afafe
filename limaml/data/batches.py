"""What the mathematics reads: batches of tasks as flat ragged rows.

Shapes: T tasks, R rows of all tasks together, Mn/Mc numeric/categorical meta features, On/Oc the other features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

DAY_US = 86_400_000_000


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
        also: [R, A] int64; each row's task in the A definitions after the first (`limaml.data.task_ids.task_codes`).
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
    also: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 0), np.int64))

    def __post_init__(self) -> None:
        if not self.also.size:
            object.__setattr__(self, "also", np.empty((self.rows, 0), np.int64))

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

    def take(self, tasks: npt.ArrayLike) -> "TaskBatch":
        """The tasks at these indices, in this order, each with all its rows."""
        chosen = np.asarray(tasks, np.int64)
        return self._gather(chosen, self.lengths[chosen], self.support[chosen])

    def support_only(self, tasks: npt.ArrayLike | None = None) -> "TaskBatch":
        """The support rows alone, of the tasks that have any: what an embedding is fine-tuned on (Alg. 2b).

        `tasks` are the indices of those to take, in this order; without them, all. Where the rows follow each other
        already, they are not copied: the arrays are then views of this batch's.
        """
        chosen = np.arange(self.tasks) if tasks is None else np.asarray(tasks, np.int64)
        chosen = chosen[self.support[chosen] > 0]
        return self._gather(chosen, self.support[chosen], self.support[chosen], share=True)

    def split_before_random_day(
        self, generator: np.random.Generator, utc_offset_hours: int, together: bool = False
    ) -> "TaskBatch":
        """The same rows with another boundary: what a daily refresh would have seen of each task on some day.

        A row of each task is drawn, the later of two, since a refresh looks back on more than an average day of a
        window does. Rows before the start of its logical day are support, that day's and later ones are query. A task
        whose first day is drawn has no support, as a new member has none. `together` takes one task's day for all.
        """
        share = generator.random((2, self.tasks)).max(axis=0)
        drawn = self.offsets[:-1] + (share * self.lengths).astype(np.int64)
        if together:
            drawn = np.full(self.tasks, drawn[generator.integers(self.tasks)])
        offset = utc_offset_hours * 3_600_000_000
        start = (self.event_time[drawn] + offset) // DAY_US * DAY_US - offset
        before = self.event_time < np.repeat(start, self.lengths)
        return replace(self, support=np.add.reduceat(before, self.offsets[:-1], dtype=np.int64))

    @staticmethod
    def concatenate(batches: Sequence["TaskBatch"]) -> "TaskBatch":
        """One batch of all tasks, in order; `batches` must not be empty."""
        if len(batches) == 1:
            return batches[0]
        lengths = np.concatenate([batch.lengths for batch in batches])
        rows = {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in _ROW_ARRAYS}
        return TaskBatch(
            task_ids=[task_id for batch in batches for task_id in batch.task_ids],
            offsets=_offsets(lengths),
            support=np.concatenate([batch.support for batch in batches]),
            **rows,
        )

    def _gather(
        self,
        chosen: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        support: npt.NDArray[np.int64],
        share: bool = False,
    ) -> "TaskBatch":
        """The first `lengths` rows of the chosen tasks; `share` allows views where the rows follow each other."""
        offsets = _offsets(lengths)
        shift = self.offsets[chosen] - offsets[:-1]
        index: npt.NDArray[np.int64] | slice
        if share and len(chosen) and (shift == shift[0]).all():
            index = slice(shift[0], shift[0] + offsets[-1])
        else:
            index = np.arange(offsets[-1]) + np.repeat(shift, lengths)
        rows = {name: getattr(self, name)[index] for name in _ROW_ARRAYS}
        return TaskBatch(task_ids=[self.task_ids[task] for task in chosen], offsets=offsets, support=support, **rows)


_ROW_ARRAYS = (
    "label", "event_time", "row_id", "meta_numeric", "meta_category", "other_numeric", "other_category", "also",
)  # fmt: skip


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
