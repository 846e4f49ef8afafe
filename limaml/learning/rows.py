"""Task batches as tensors: flat rows with the task each belongs to.

Shapes, here and in all of `limaml.learning`: T tasks · R rows of all tasks · M encoded meta features · O encoded other
features · D embedding width · W = D plus the adapted bias where there is one · H hidden.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
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
        also_R: for each further task definition, [R] int64 each row's task in `range(also_tasks[…])`; −1 leaves a
            support row out of that definition's inner loop.
        also_tasks: how many tasks of each further definition there are.
        time_R: [R] int64 event times, by which rows are ordered inside the tasks of a further definition; empty where
            there is none.
    """

    meta_numeric: Tensor
    meta_category: Tensor
    other_numeric: Tensor
    other_category: Tensor
    label_R: Tensor
    task_R: Tensor
    tasks: int
    also_R: tuple[Tensor, ...] = ()
    also_tasks: tuple[int, ...] = ()
    time_R: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def by(self, definition: int) -> "Rows":
        """The rows as tasks of the n-th definition, in the order of `order_by`; of the first they are tasks already."""
        if definition == 0:
            return self
        rows = self._at(self.order_by(definition))
        return replace(rows, task_R=rows.also_R[definition - 1], tasks=rows.also_tasks[definition - 1])

    def order_by(self, definition: int) -> Tensor:
        """[R'] rows that take part in a further definition, task by task and chronological inside."""
        task_R = self.also_R[definition - 1]
        order = torch.argsort(self.time_R, stable=True)
        order = order[torch.argsort(task_R[order], stable=True)]
        return order[task_R[order] >= 0]

    def where(self, keep_R: Tensor) -> "Rows":
        """The rows a boolean mask keeps; tasks keep their numbers."""
        return self._at(keep_R.nonzero().squeeze(1))

    @cached_property
    def count_T(self) -> Tensor:
        """[T] int64 rows of each task."""
        return torch.bincount(self.task_R, minlength=self.tasks)

    def newest(self) -> "Rows":
        """The most recent row of every task; every task must own one."""
        return self._at(self.count_T.cumsum(0) - 1)

    def _at(self, index: Tensor) -> "Rows":
        return Rows(
            self.meta_numeric[index],
            self.meta_category[index],
            self.other_numeric[index],
            self.other_category[index],
            self.label_R[index],
            self.task_R[index],
            self.tasks,
            tuple(task_R[index] for task_R in self.also_R),
            self.also_tasks,
            self.time_R[index] if len(self.time_R) else self.time_R,
        )

    def sum_by_task(self, value: Tensor) -> Tensor:
        """[T] or [T, W] sums of per-row values [R] or [R, W]; 0 for a task without rows."""
        if self._same_length:
            return value.view(self.tasks, -1, *value.shape[1:]).sum(1)
        return value.new_zeros(self.tasks, *value.shape[1:]).index_add(0, self.task_R, value)

    def of_row(self, value: Tensor) -> Tensor:
        """[R, …] each row's own task's value, of values [T, …]."""
        if self._same_length:
            return value.repeat_interleave(self.longest, 0, output_size=len(self.label_R))
        return value[self.task_R]

    @cached_property
    def longest(self) -> int:
        """S: rows of the longest task."""
        return int(self.count_T.max()) if len(self.task_R) else 0

    @cached_property
    def _same_length(self) -> bool:
        return 0 < len(self.task_R) == self.tasks * self.longest

    @cached_property
    def position_R(self) -> Tensor:
        """[R] int64 how many rows of its task come before a row."""
        start_T = self.count_T.cumsum(0) - self.count_T
        return torch.arange(len(self.task_R), device=self.task_R.device) - start_T[self.task_R]

    @cached_property
    def _place_R(self) -> Tensor:
        """[R] where each row goes when every task has room for the longest one."""
        return self.task_R * self.longest + self.position_R

    def padded(self, value_RI: Tensor) -> Tensor:
        """[T, S, I] the rows of each task beside each other, zeros behind the last one."""
        if self._same_length:
            return value_RI.view(self.tasks, self.longest, -1)
        room = value_RI.new_zeros(self.tasks * self.longest, value_RI.shape[1])
        return room.index_copy_(0, self._place_R, value_RI).view(self.tasks, self.longest, value_RI.shape[1])

    def flat(self, value_TSI: Tensor) -> Tensor:
        """[R, I] back from `padded`."""
        value = value_TSI.reshape(self.tasks * self.longest, value_TSI.shape[2])
        return value if self._same_length else value[self._place_R]


def rows_of(batch: TaskBatch, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Rows:
    """All rows of a batch as tensors."""

    def floating(array: object) -> Tensor:
        return torch.as_tensor(array).to(device=device, dtype=dtype)

    also = [np.unique(batch.also[:, column], return_inverse=True) for column in range(batch.also.shape[1])]
    return Rows(
        floating(batch.meta_numeric),
        torch.as_tensor(batch.meta_category).to(device),
        floating(batch.other_numeric),
        torch.as_tensor(batch.other_category).to(device),
        floating(batch.label),
        torch.as_tensor(batch.task_of_row).to(device),
        batch.tasks,
        tuple(torch.as_tensor(numbers).to(device) for _, numbers in also),
        tuple(len(codes) for codes, _ in also),
        torch.as_tensor(batch.event_time.copy() if also else np.empty(0, np.int64)).to(device),
    )


def support_and_query(batch: TaskBatch, device: torch.device | str = "cpu") -> tuple[Rows, Rows]:
    """A batch's support rows and query rows."""
    rows = rows_of(batch, device)
    is_query = torch.as_tensor(batch.is_query).to(device)
    return rows.where(~is_query), rows.where(is_query)
