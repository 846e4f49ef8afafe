"""A task set's shard as a file: row groups cut between tasks, so that each one can be read by itself."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from limaml.data.batches import TaskBatch
from limaml.schema import (
    EVENT_TIME,
    IS_QUERY,
    LABEL,
    META_CATEGORY,
    META_NUMERIC,
    OTHER_CATEGORY,
    OTHER_NUMERIC,
    ROW_ID,
    TASK_ID,
)

ROW_GROUP_ROWS = 1 << 17


class ShardWriter:
    """Appends whole tasks to a Parquet file; how they are fed changes no byte of it.

    Attributes:
        rows: rows given so far.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        lists = {field.name: field.type.value_type for field in schema if pa.types.is_fixed_size_list(field.type)}
        items = {name: f"{name}.list.element" for name in lists}
        floats = [items[name] for name, kind in lists.items() if pa.types.is_floating(kind)]
        self.rows = 0
        self._pending = schema.empty_table()
        self._lengths = np.zeros(0, np.int64)
        # Bytes of floats compress when split by position; sorted times and row ids as differences.
        options: dict[str, Any] = {
            "compression": "zstd",
            "compression_level": 1,
            "use_dictionary": [TASK_ID, *(items[name] for name in lists if items[name] not in floats)],
            "column_encoding": {
                **dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
                **dict.fromkeys((EVENT_TIME, ROW_ID), "DELTA_BINARY_PACKED"),
            },
            "write_statistics": [EVENT_TIME],
        }
        self._writer = pq.ParquetWriter(path, schema, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None and self._pending.num_rows:
            self._write_group(self._pending)
        self._writer.close()

    def write(self, table: pa.Table, lengths: npt.NDArray[np.int64]) -> None:
        """Append tasks: their rows, and how many each has."""
        self.rows += table.num_rows
        table = pa.concat_tables([self._pending, table])
        lengths = np.concatenate([self._lengths, lengths])
        ends = np.cumsum(lengths)
        first = written = 0
        # A group is written once the next task is known not to fit, so the cuts depend on the tasks alone.
        while ends[-1] - written > ROW_GROUP_ROWS:
            task = max(int(np.searchsorted(ends, written + ROW_GROUP_ROWS, "right")), first + 1)
            if task == len(ends):
                break
            self._write_group(table.slice(written, ends[task - 1] - written))
            first, written = task, int(ends[task - 1])
        # Copied, so that what is pending does not hold the whole bucket in memory.
        self._pending = table.slice(written).combine_chunks()
        self._lengths = lengths[first:]

    def _write_group(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks(), row_group_size=table.num_rows)


def read_row_group(file: pq.ParquetFile, group: int, widths: dict[str, int]) -> TaskBatch:
    """The tasks of one row group; feature columns of no width come back as [R, 0]."""
    table = file.read_row_group(group).combine_chunks()
    columns = {name: table.column(name).chunk(0) for name in table.column_names}
    task_ids = columns[TASK_ID].dictionary_encode()
    codes = task_ids.indices.to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], np.diff(codes) != 0]))
    query = columns[IS_QUERY].to_numpy(zero_copy_only=False)

    def matrix(name: str, dtype: npt.DTypeLike) -> np.ndarray:
        if not widths[name]:
            return np.empty((table.num_rows, 0), dtype)
        return columns[name].flatten().to_numpy().reshape(-1, widths[name])

    return TaskBatch(
        task_ids=task_ids.dictionary.take(pa.array(codes[starts])).to_pylist(),
        offsets=np.append(starts, table.num_rows).astype(np.int64),
        support=np.add.reduceat(~query, starts, dtype=np.int64),
        label=columns[LABEL].to_numpy().astype(np.float32),
        event_time=columns[EVENT_TIME].cast(pa.int64()).to_numpy(),
        row_id=columns[ROW_ID].to_numpy(),
        meta_numeric=matrix(META_NUMERIC, np.float32),
        meta_category=matrix(META_CATEGORY, np.int64),
        other_numeric=matrix(OTHER_NUMERIC, np.float32),
        other_category=matrix(OTHER_CATEGORY, np.int64),
    )
