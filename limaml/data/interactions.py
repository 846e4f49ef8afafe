"""Validated interactions as encoded rows: what task grouping sorts.

An encoded row holds its task's key and hash, and the columns of a task set with the features as fixed-width lists, so
that moving a row costs a few copies however many features an application has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from limaml import storage
from limaml.config import Application, Definition
from limaml.data.features import category_codes, encode_features
from limaml.data.task_ids import task_codes
from limaml.errors import DataError
from limaml.manifest import FileEntry, file_uri, verify_file
from limaml.schema import (
    ALSO,
    EVENT_TIME,
    LABEL,
    META_CATEGORY,
    META_NUMERIC,
    OTHER_CATEGORY,
    OTHER_NUMERIC,
    ROW_ID,
    TIMESTAMP,
)
from limaml.windows import Window

HASH = "task_hash"

_BATCH_ROWS = 1 << 18
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(instant: datetime) -> int:
    """Microseconds since the epoch of an aware datetime."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


@dataclass
class InteractionReader:
    """Streams files as encoded rows of a window; afterwards knows what it has seen.

    Attributes:
        definition: whose keys rows are grouped by; None is the first.
        rows_read: rows of all files.
        oldest, newest: event times seen in any file, inside the window or not; microseconds since the epoch.
    """

    application: Application
    window: Window
    definition: Definition | None = None
    rows_read: int = 0
    oldest: int | None = None
    newest: int | None = None

    def read(self, validated: str, entry: FileEntry) -> Iterator[pa.RecordBatch]:
        """Encoded rows of one file of a validated window whose event time lies in the reader's window.

        Raises:
            IntegrityError: the file is not the one the manifest names.
            DataError: a column is missing or has a type that can't be used.
        """
        verify_file(validated, entry)
        uri = file_uri(validated, entry)
        fs, path = storage.filesystem(uri)
        try:
            # Small read buffers instead of whole column chunks: memory does not grow with the row groups of upstream.
            with pq.ParquetFile(fs.open_input_file(path), buffer_size=1 << 20, pre_buffer=False) as file:
                columns = self._columns(file.schema_arrow)
                for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                    if batch.num_rows:
                        yield from self._encode(batch)
        except DataError as error:
            raise type(error)(f"{uri}: {error}") from error
        except pa.ArrowInvalid as error:
            raise DataError(f"{uri}: not readable as Parquet: {error}") from error

    def _columns(self, schema: pa.Schema) -> list[str]:
        data = self.application.data
        needed = [*self.application.key_columns, EVENT_TIME, LABEL]
        needed += [data.row_id_column] if data.row_id_column else []
        needed += [feature.name for feature in self.application.features.all]
        if missing := [name for name in needed if name not in schema.names]:
            raise DataError(f"column {', '.join(missing)} missing; the columns are {', '.join(schema.names)}")
        return list(dict.fromkeys(needed))

    def _encode(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        time = _event_time(batch.column(EVENT_TIME))
        self.rows_read += len(time)
        oldest, newest = int(time.min()), int(time.max())
        self.oldest = oldest if self.oldest is None else min(oldest, self.oldest)
        self.newest = newest if self.newest is None else max(newest, self.newest)
        start, end = microseconds(self.window.start_time), microseconds(self.window.end_time)
        if oldest < start or newest >= end:
            inside = (time >= start) & (time < end)
            if not inside.any():
                return
            batch, time = batch.filter(pa.array(inside)), time[inside]
        definition = self.definition or self.application.task
        keys = [task_key(name, batch.column(name)) for name in definition.keys]
        row_id = self.application.data.row_id_column
        columns: dict[str, pa.Array] = {
            HASH: pa.array(hash_keys(keys)),
            **{key_column(position): key for position, key in enumerate(keys)},
            EVENT_TIME: pa.array(time),
            ROW_ID: pa.array(np.zeros(len(time), np.int64)) if row_id is None else _integers(batch, row_id, pa.int64()),
            LABEL: _integers(batch, LABEL, pa.int8()),
        }
        for features, names in (
            (self.application.features.meta, (META_NUMERIC, META_CATEGORY)),
            (self.application.features.other, (OTHER_NUMERIC, OTHER_CATEGORY)),
        ):
            for name, matrix in zip(names, encode_features(features, batch), strict=True):
                if matrix.shape[1]:
                    columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
        if also := [task_codes([task_key(n, batch.column(n)) for n in each.keys]) for each in self.application.also]:
            columns[ALSO] = pa.FixedSizeListArray.from_arrays(pa.array(np.stack(also, 1).reshape(-1)), len(also))
        yield pa.RecordBatch.from_pydict(columns)


def key_column(position: int) -> str:
    """Name of the n-th task key among encoded rows (a key may also be a feature, so its own name won't do)."""
    return f"key_{position}"


def hash_keys(keys: list[pa.Array]) -> npt.NDArray[np.uint64]:
    """[R] hashes of task keys: which shard and bucket a task falls in, and where in it. Equal on every platform.

    For one integer key the hash is a bijection; in general different tasks may share one.
    """
    with np.errstate(over="ignore"):
        state = np.zeros(len(keys[0]), np.uint64)
        for key in keys:
            codes = key.to_numpy() if pa.types.is_integer(key.type) else category_codes(key)
            state = mix(state ^ codes.view(np.uint64))
    return state


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A bijection of 64-bit integers that spreads them evenly (the finalizer of SplitMix64)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def _event_time(column: pa.Array) -> npt.NDArray[np.int64]:
    if not pa.types.is_timestamp(column.type) or column.type.tz is None or column.null_count:
        raise DataError(
            f"column {EVENT_TIME}: needs timestamps with a time zone and no nulls, "
            f"found {column.type} with {column.null_count} nulls; convert it to {TIMESTAMP} upstream"
        )
    return column.cast(TIMESTAMP, safe=False).cast(pa.int64()).to_numpy()


def task_key(name: str, column: pa.Array) -> pa.Array:
    """One column of a task's key as int64 or strings, offline and online alike.

    Raises:
        DataError: a null, or a type that can't be a key.
    """
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"column {name}, row {row}: null in a task key; every row needs its task")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return column.cast(pa.int64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    raise DataError(f"column {name}: a task key must be a string or an integer below 2^63, not {kind}")


def _integers(batch: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    column = batch.column(name)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"column {name}: needs integers and no nulls, found {column.type}, {column.null_count} nulls")
    return column.cast(kind)
