"""What only a simulation knows: the true probability of every row, the best any model could score."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from limaml import schema, storage
from limaml.config import Application
from limaml.data import layout
from limaml.errors import DataError
from limaml.windows import TaskSplit


@dataclass(frozen=True)
class Truth:
    """[N] int64 row ids, ascending, and [N] float32 true probabilities."""

    row_id: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float32]

    @classmethod
    def of(cls, row_id: npt.NDArray[np.int64], probability: npt.NDArray[np.float32]) -> "Truth":
        """Sort by row id."""
        order = np.argsort(row_id)
        return cls(row_id[order], probability[order])

    def lookup(self, row_id: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """True probabilities of rows.

        Raises:
            DataError: one of them is not known.
        """
        place = np.searchsorted(self.row_id, row_id)
        known = np.append(self.row_id, -1)[place] == row_id
        if not known.all():
            raise DataError(
                f"no true probability for row_id {row_id[~known][0]}: truth and interactions are from different runs"
            )
        return self.probability[place]


def truth_of(application: Application, data: str | None, split: TaskSplit) -> Truth | None:
    """True probabilities of the rows a split scores, where the data root has them and rows have ids.

    Raises:
        DataError: a file of the truth lacks its column.
    """
    if data is None or application.data.row_id_column is None or not storage.exists(storage.join(data, layout.TRUTH)):
        return None
    # Rows before the boundary are support, never scored; they are most of the window.
    days = {day for day in split.window.days if split.boundary is None or day >= split.boundary}
    ids, probabilities = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for info in storage.list_files(storage.join(data, layout.TRUTH), ".parquet"):
        if layout.day_of(info.path) not in days:
            continue
        fs, _ = storage.filesystem(data)
        table = pq.read_table(fs.open_input_file(info.path))
        if schema.TRUE_PROBABILITY not in table.column_names:
            raise DataError(f"{info.path}: no column {schema.TRUE_PROBABILITY}")
        ids.append(table[schema.ROW_ID].to_numpy())
        probabilities.append(table[schema.TRUE_PROBABILITY].to_numpy())
    return Truth.of(np.concatenate(ids), np.concatenate(probabilities))
