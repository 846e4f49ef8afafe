"""Task batches as tensors: flat rows with the task each belongs to.

Shapes, here and in all of `limaml.learning`: T tasks · R rows of all tasks · M encoded meta features · O encoded other
features · D embedding width · W = D plus the adapted bias where there is one · H hidden.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from limaml.data.batches import TaskBatch


@dataclass(frozen=True)
class Rows:
    """R rows of `tasks` tasks; the rows of a task are contiguous and chronological.

    Attributes:
        meta_numeric: [R, Mn] float, NaN for null.
        meta_category: [R, Mc] int64 codes.
        other_numeric: [R, On] float, NaN for null.
        other_category: [R, Oc] int64 codes.
        label_R: [R] float, 0 or 1.
        task_R: [R] int64, each row's task in `range(tasks)`; non-decreasing.
        tasks: T; a task may own no row.
    """

    meta_numeric: Tensor
    meta_category: Tensor
    other_numeric: Tensor
    other_category: Tensor
    label_R: Tensor
    task_R: Tensor
    tasks: int

    def where(self, keep_R: Tensor) -> "Rows":
        """The rows a boolean mask keeps; tasks keep their numbers."""
        index = keep_R.nonzero().squeeze(1)
        return Rows(
            self.meta_numeric[index],
            self.meta_category[index],
            self.other_numeric[index],
            self.other_category[index],
            self.label_R[index],
            self.task_R[index],
            self.tasks,
        )

    @property
    def count_T(self) -> Tensor:
        """[T] rows of each task, in the labels' dtype."""
        return self.sum_by_task(torch.ones_like(self.label_R))

    def sum_by_task(self, value_R: Tensor) -> Tensor:
        """[T] sums of a per-row value; 0 for a task without rows."""
        return value_R.new_zeros(self.tasks).index_add(0, self.task_R, value_R)


def rows_of(batch: TaskBatch, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Rows:
    """All rows of a batch as tensors."""

    def floating(array: object) -> Tensor:
        return torch.as_tensor(array).to(device=device, dtype=dtype)

    return Rows(
        floating(batch.meta_numeric),
        torch.as_tensor(batch.meta_category).to(device),
        floating(batch.other_numeric),
        torch.as_tensor(batch.other_category).to(device),
        floating(batch.label),
        torch.as_tensor(batch.task_of_row).to(device),
        batch.tasks,
    )


def support_and_query(batch: TaskBatch, device: torch.device | str = "cpu") -> tuple[Rows, Rows]:
    """A batch's support rows and query rows."""
    rows = rows_of(batch, device)
    is_query = torch.as_tensor(batch.is_query).to(device)
    return rows.where(~is_query), rows.where(is_query)
