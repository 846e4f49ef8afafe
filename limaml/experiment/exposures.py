"""What an A/B test leaves on disk, and how its three logs are opened.

An exposure is one item shown for one request, with everything needed to explain it later: who was in which arm, what
was scored by which release, how old the embedding was, and the outcome once it is known.
"""

from collections.abc import Iterable
from datetime import date

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from limaml import storage
from limaml.errors import DataError
from limaml.schema import EVENT_TIME, LABEL, MEMBER, MODEL_VERSION, SIGNUP_TIME, TIMESTAMP, VISIT_TIME

REQUEST = "request_id"
ITEM = "item_id"
VARIANT = "variant"
SCORE = "score"
GENERATION = "generation"
REASON = "reason"
EMBEDDING_AGE = "embedding_age_seconds"

VISITS = pa.schema([(MEMBER, pa.int64()), (VISIT_TIME, TIMESTAMP)])
SIGNUPS = pa.schema([(MEMBER, pa.int64()), (SIGNUP_TIME, TIMESTAMP)])


def exposure_schema(item_type: pa.DataType | None = None) -> pa.Schema:
    """Columns of the exposure log; items keep the type the application gives them (int64 unless told).

    `label` is 0 or 1; `embedding_age_seconds` is null where no stored embedding was used.
    """
    return pa.schema(
        [
            (REQUEST, pa.int64()),
            (MEMBER, pa.int64()),
            (ITEM, item_type or pa.int64()),
            (VARIANT, pa.string()),
            (SCORE, pa.float32()),
            (MODEL_VERSION, pa.string()),
            (GENERATION, pa.string()),
            (REASON, pa.string()),
            (EMBEDDING_AGE, pa.float32()),
            (EVENT_TIME, TIMESTAMP),
            (LABEL, pa.int8()),
        ]
    )


def exposure_columns() -> pa.Schema:
    """The columns an analysis reads; items are only compared, whatever their type."""
    schema = exposure_schema()
    return pa.schema([schema.field(name) for name in (REQUEST, MEMBER, VARIANT, REASON, EVENT_TIME, LABEL)])


def open_log(uri: str, columns: pa.Schema, days: Iterable[date] | None = None) -> ds.Dataset:
    """A streaming view of a folder of parquet files, projected to `columns`.

    Args:
        uri: the folder.
        columns: what is read; other columns are ignored.
        days: only these `date=D` partitions; each must be there. None reads every file.

    Raises:
        DataError: no file, a missing day, a missing column, a wrong type, or a file that is no parquet.
    """
    fs, root = storage.filesystem(uri)
    paths = [info.path for info in storage.list_files(uri, ".parquet")]
    if days is not None:
        by_day = {day: [path for path in paths if f"/date={day}/" in path[len(root.rstrip("/")) :]] for day in days}
        absent = [str(day) for day, found in by_day.items() if not found]
        if absent:
            raise DataError(f"{uri}: no parquet file below date={absent[0]} ({len(absent)} of {len(by_day)} days missing)")
        paths = [path for found in by_day.values() for path in found]
    if not paths:
        raise DataError(f"{uri}: no parquet file there")
    for path in paths:
        _check(path, _read_schema(fs, path), columns)
    return ds.dataset(paths, schema=columns, format="parquet", filesystem=fs)


def _read_schema(fs: pa.fs.FileSystem, path: str) -> pa.Schema:
    try:
        return pq.read_schema(path, filesystem=fs)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}); write it again") from error


def _check(path: str, found: pa.Schema, wanted: pa.Schema) -> None:
    for field in wanted:
        index = found.get_field_index(field.name)
        if index < 0:
            raise DataError(f"{path}: no column {field.name!r}; it has {', '.join(found.names)}")
        actual = found.field(index).type
        if pa.types.is_timestamp(field.type):
            fits = pa.types.is_timestamp(actual) and actual.tz is not None
        elif pa.types.is_integer(field.type):
            fits = pa.types.is_integer(actual)
        else:
            fits = actual == field.type or pa.types.is_dictionary(actual)
        if not fits:
            raise DataError(f"{path}: column {field.name!r} is {actual}, not {field.type}")
