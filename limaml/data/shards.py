"""A task set's shard as a file: row groups cut between tasks, so that each one can be read by itself.

A row's features of one kind are stored as one value, `fixed_size_binary` of width × 4 or 8 little-endian bytes, and not
as a list: Parquet keeps two levels beside every item of a list, which cost more to decode than the items themselves.
What a member's rows have in common then repeats in one piece, which zstd finds.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from limaml import storage
from limaml.data.batches import TaskBatch
from limaml.errors import DataError
from limaml.schema import (
    ALSO,
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

# A row group ends at whichever it meets first; readers hold one or two of them.
ROW_GROUP_ROWS = 1 << 17
ROW_GROUP_BYTES = 32 << 20
# Features are compressed where that takes a tenth off a sample of them: on noise, zstd would be most of reading's cost.
SAMPLE_BYTES = 1 << 20
MINIMUM_SAVING = 0.1
_ZSTD_LEVEL = 3
_BUFFER_BYTES = 1 << 17

_FEATURES = {
    META_NUMERIC: np.dtype("<f4"),
    META_CATEGORY: np.dtype("<i8"),
    OTHER_NUMERIC: np.dtype("<f4"),
    OTHER_CATEGORY: np.dtype("<i8"),
    ALSO: np.dtype("<i8"),
}


class ShardWriter:
    """Appends whole tasks to a Parquet file; how they are fed changes no byte of it.

    Attributes:
        rows: rows given so far.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._path = path
        widths = {field.name: field.type.list_size for field in schema if pa.types.is_fixed_size_list(field.type)}
        row_bytes = sum(width * _FEATURES[name].itemsize for name, width in widths.items())
        self._group_rows = min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // max(row_bytes, 1))
        self._pending = schema.empty_table()
        self._lengths = np.zeros(0, np.int64)
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # A shard without tasks is a file as well.
        if kind is None and (self._pending.num_rows or self._writer is None):
            self._write_group(self._pending)
        if self._writer is not None:
            self._writer.close()

    def write(self, table: pa.Table, lengths: npt.NDArray[np.int64]) -> None:
        """Append tasks: their rows, and how many each has."""
        self.rows += table.num_rows
        table = pa.concat_tables([self._pending, table])
        lengths = np.concatenate([self._lengths, lengths])
        ends = np.cumsum(lengths)
        first = written = 0
        # A group is written once the next task is known not to fit, so the cuts depend on the tasks alone.
        while ends[-1] - written > self._group_rows:
            task = max(int(np.searchsorted(ends, written + self._group_rows, "right")), first + 1)
            if task == len(ends):
                break
            self._write_group(table.slice(written, ends[task - 1] - written))
            first, written = task, int(ends[task - 1])
        # Copied, so that what is pending does not hold the whole bucket in memory.
        self._pending = table.slice(written).combine_chunks()
        self._lengths = lengths[first:]

    def _write_group(self, table: pa.Table) -> None:
        stored = _stored(table.combine_chunks())
        if self._writer is None:
            # The first group depends on the tasks alone, and so does what is decided from it.
            self._writer = pq.ParquetWriter(self._path, stored.schema, **_options(stored))
        if stored.num_rows:
            self._writer.write_table(stored, row_group_size=stored.num_rows)


def _stored(table: pa.Table) -> pa.Table:
    """The table with each list of features as one value; no byte is copied."""
    columns, fields = [], []
    for field in table.schema:
        column = table.column(field.name)
        array = column.chunk(0) if column.num_chunks else pa.array([], field.type)
        if pa.types.is_fixed_size_list(field.type):
            items = array.flatten().to_numpy().astype(_FEATURES[field.name], copy=False)
            kind = pa.binary(field.type.list_size * items.itemsize)
            array = pa.FixedSizeBinaryArray.from_buffers(kind, len(array), [None, pa.py_buffer(items)])
        columns.append(array)
        fields.append(pa.field(field.name, array.type, nullable=False))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _options(first: pa.Table) -> dict[str, Any]:
    """How the file of this first row group is written."""
    noise = {name for name in _FEATURES if name in first.schema.names and not _compresses(first.column(name))}
    return {
        "compression": {name: "none" if name in noise else "zstd" for name in first.schema.names},
        "compression_level": {name: _ZSTD_LEVEL for name in first.schema.names if name not in noise},
        "use_dictionary": [name for name in (TASK_ID, META_CATEGORY, OTHER_CATEGORY) if name in first.schema.names],
        # Sorted times and row ids are small as differences.
        "column_encoding": dict.fromkeys((EVENT_TIME, ROW_ID), "DELTA_BINARY_PACKED"),
        "write_statistics": [EVENT_TIME],
    }


def _compresses(column: pa.ChunkedArray) -> bool:
    if not len(column):
        return False
    sample = column.chunk(0).buffers()[1][:SAMPLE_BYTES]
    packed = pa.Codec("zstd", compression_level=_ZSTD_LEVEL).compress(sample)
    return len(packed) < (1 - MINIMUM_SAVING) * len(sample)


def open_shard(uri: str) -> pq.ParquetFile:
    """The shard at a URI; close it.

    Raises:
        StorageError: it can't be read.
    """
    fs, path = storage.filesystem(uri)
    with storage.storage_errors(path, "read"):
        # Far away, columns are fetched at once; near by, a piece at a time that stays in the processor's cache.
        near = {"pre_buffer": False, "buffer_size": _BUFFER_BYTES} if storage.is_local(uri) else {}
        return pq.ParquetFile(fs.open_input_file(path), read_dictionary=[TASK_ID], **near)


def read_row_group(file: pq.ParquetFile, group: int, widths: dict[str, int], row_ids: bool = True) -> TaskBatch:
    """The tasks of one row group; feature columns of no width come back as [R, 0].

    `row_ids=False` leaves them unread: they come back as 0.

    Raises:
        DataError: the file is not of this format.
    """
    names = [TASK_ID, EVENT_TIME, *([ROW_ID] if row_ids else []), LABEL, IS_QUERY]
    features = [name for name in _FEATURES if widths.get(name)]
    stored = file.schema_arrow
    for name in features:
        size = widths[name] * _FEATURES[name].itemsize
        if name not in stored.names or stored.field(name).type != pa.binary(size):
            raise DataError(f"a task set's column {name} is not {size} bytes a row; group the tasks again")
    table = file.read_row_group(group, columns=[*names, *features])
    columns = {name: _one_chunk(table.column(name)) for name in table.column_names}
    task_ids = columns[TASK_ID].dictionary_encode()
    codes = task_ids.indices.to_numpy()
    starts = np.flatnonzero(np.concatenate([[True], np.diff(codes) != 0]))
    query = columns[IS_QUERY].to_numpy(zero_copy_only=False)

    def matrix(name: str) -> np.ndarray:
        if not widths.get(name):
            return np.empty((table.num_rows, 0), _FEATURES[name])
        column = columns[name]
        items = np.frombuffer(column.buffers()[1], _FEATURES[name], offset=column.offset * column.type.byte_width)
        return items[: table.num_rows * widths[name]].reshape(-1, widths[name])

    return TaskBatch(
        task_ids=task_ids.dictionary.take(pa.array(codes[starts])).to_pylist(),
        offsets=np.append(starts, table.num_rows).astype(np.int64),
        support=np.add.reduceat(~query, starts, dtype=np.int64),
        label=columns[LABEL].to_numpy().astype(np.float32),
        event_time=columns[EVENT_TIME].cast(pa.int64()).to_numpy(),
        row_id=columns[ROW_ID].to_numpy() if row_ids else np.zeros(table.num_rows, np.int64),
        meta_numeric=matrix(META_NUMERIC),
        meta_category=matrix(META_CATEGORY),
        other_numeric=matrix(OTHER_NUMERIC),
        other_category=matrix(OTHER_CATEGORY),
        also=matrix(ALSO),
    )


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def row_groups(file: pq.ParquetFile, widths: dict[str, int]) -> Iterator[TaskBatch]:
    """The tasks of one row group after the other, their row ids left unread."""
    for group in range(file.num_row_groups):
        yield read_row_group(file, group, widths, row_ids=False)


def support_parts(
    batch: TaskBatch, tasks: npt.NDArray[np.int64], tasks_per_part: int, rows_per_part: int
) -> Iterator[npt.NDArray[np.int64]]:
    """These of a batch's tasks in parts of similar length, each ending at whichever comes first.

    Only support rows count: `batch.support_only` of a part may share the batch's memory. A part has one task at least.
    """
    order = tasks[np.argsort(batch.support[tasks], kind="stable")]
    ends = np.cumsum(batch.support[order])
    first = rows = 0
    while first < len(order):
        last = int(np.searchsorted(ends, rows + rows_per_part, "right"))
        last = min(max(last, first + 1), first + tasks_per_part)
        yield order[first:last]
        first, rows = last, int(ends[last - 1])
