"""How a task set is divided between processes: by row groups, so that each reads little more than its own tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from limaml.data.batches import TaskBatch
from limaml.data.shards import read_row_group
from limaml.schema import TASK_ID

# Row groups are cut where a part would otherwise get fewer pieces than this: parts stay about equal.
PIECES_PER_PART = 4


@dataclass(frozen=True)
class Piece:
    """Tasks of one row group: the part `cut` of `cuts` equal ones."""

    file: pq.ParquetFile
    group: int
    cut: int
    cuts: int

    @property
    def rows(self) -> float:
        """About how many rows it has."""
        return self.file.metadata.row_group(self.group).num_rows / self.cuts

    def count_tasks(self) -> int:
        """How many tasks it has; reads the task ids alone."""
        ids = self.file.read_row_group(self.group, columns=[TASK_ID]).column(0).combine_chunks()
        whole = 1 + int(np.count_nonzero(np.diff(ids.dictionary_encode().indices.to_numpy())))
        first, end = self._bounds(whole)
        return end - first

    def read(self, widths: dict[str, int]) -> TaskBatch:
        """Its tasks with all their rows."""
        batch = read_row_group(self.file, self.group, widths)
        return batch if self.cuts == 1 else batch.take(np.arange(*self._bounds(batch.tasks)))

    def _bounds(self, tasks: int) -> tuple[int, int]:
        return tasks * self.cut // self.cuts, tasks * (self.cut + 1) // self.cuts


def pieces_of_part(files: Sequence[pq.ParquetFile], number: int, parts: int) -> list[Piece]:
    """The pieces of part `number` of `parts`, in the order of the files.

    Pieces with the most rows first, each goes to the part with the fewest rows so far. Where row groups are few they
    are cut between their tasks, and then several parts read the same group.
    """
    groups = [(file, group) for file in files for group in range(file.num_row_groups)]
    cuts = 1 if parts == 1 else -(-parts * PIECES_PER_PART // max(len(groups), 1))
    pieces = [Piece(file, group, cut, cuts) for file, group in groups for cut in range(cuts)]
    rows = np.array([piece.rows for piece in pieces])
    load = np.zeros(parts)
    owner = np.zeros(len(pieces), np.int64)
    for index in np.argsort(-rows, kind="stable"):
        owner[index] = load.argmin()
        load[owner[index]] += rows[index]
    return [piece for piece, part in zip(pieces, owner, strict=True) if part == number]
