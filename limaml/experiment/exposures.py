"""What an A/B test leaves on disk, and how its three logs are opened.

An exposure is one item shown for one request, with everything needed to explain it later: who was in which arm, what
was scored by which release, how old the embedding was, and the outcome once it is known.
"""

from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from limaml import storage
from limaml.data.layout import day_folder, day_of
from limaml.errors import DataError
from limaml.schema import EVENT_TIME, LABEL, MEMBER, MODEL_VERSION, SIGNUP_TIME, TIMESTAMP, VISIT_TIME

REQUEST = "request_id"
ITEM = "item_id"
VARIANT = "variant"
SCORE = "score"
GENERATION = "generation"
REASON = "reason"
EMBEDDING_AGE = "embedding_age_seconds"
EXPERIMENT = "experiment"
POSITION = "position"
COHORT = "cohort"

# Which of the exposed items were really shown, and whether they were clicked; ids are compared as text.
OUTCOMES = pa.schema([(REQUEST, pa.null()), (ITEM, pa.null()), (LABEL, pa.int8())])
VISITS = pa.schema([(MEMBER, pa.int64()), (VISIT_TIME, TIMESTAMP)])
SIGNUPS = pa.schema([(MEMBER, pa.int64()), (SIGNUP_TIME, TIMESTAMP)])


def exposure_schema(item_type: pa.DataType | None = None, request_type: pa.DataType | None = None) -> pa.Schema:
    """Columns of the exposure log; items and requests keep the type they are given (int64 unless told).

    `label` is 0 or 1, and null until the outcome is known; `embedding_age_seconds` is null where no stored embedding
    was used; `position` is an item's rank among its request's candidates, from 1; `cohort` is null where unknown.
    """
    return pa.schema(
        [
            (EXPERIMENT, pa.string()),
            (REQUEST, request_type or pa.int64()),
            (MEMBER, pa.int64()),
            (ITEM, item_type or pa.int64()),
            (POSITION, pa.int32()),
            (VARIANT, pa.string()),
            (SCORE, pa.float32()),
            (MODEL_VERSION, pa.string()),
            (GENERATION, pa.string()),
            (REASON, pa.string()),
            (EMBEDDING_AGE, pa.float32()),
            (COHORT, pa.string()),
            (EVENT_TIME, TIMESTAMP),
            (LABEL, pa.int8()),
        ]
    )


def exposure_columns() -> pa.Schema:
    """The columns an analysis reads; ids of items and requests are only compared, so any type will do."""
    schema = exposure_schema(pa.null(), pa.null())
    read = (EXPERIMENT, REQUEST, MEMBER, ITEM, VARIANT, REASON, EVENT_TIME, LABEL)
    return pa.schema([schema.field(name) for name in read])


def open_log(uri: str, columns: pa.Schema, days: Sequence[date] = (), earlier: bool = False) -> ds.Dataset:
    """A streaming view of a folder of parquet files, projected to `columns`.

    Args:
        uri: the folder.
        columns: what is read; other columns are ignored. A field of type null takes the first file's type.
        days: only these `date=D` partitions, and each must be there; none given reads every file.
        earlier: partitions before the first of `days` are read too.

    Raises:
        DataError: no file, a missing day, a missing column, a wrong type, or a file that is no parquet.
    """
    fs, _ = storage.filesystem(uri)
    paths = [info.path for info in storage.list_files(uri, ".parquet")]
    if days:
        dated = [(path, day_of(path)) for path in paths]
        if absent := sorted(set(days) - {day for _, day in dated}):
            raise DataError(
                f"{uri}: no parquet file in {day_folder(absent[0])} ({len(absent)} of {len(days)} days are missing)"
            )
        paths = [path for path, day in dated if day and (day in days or (earlier and day < min(days)))]
    if not paths:
        raise DataError(f"{uri}: no parquet file there")
    schemas = [_read_schema(fs, path) for path in paths]
    for path, found in zip(paths, schemas, strict=True):
        _check(path, found, columns)
    known = [schemas[0].field(field.name) if pa.types.is_null(field.type) else field for field in columns]
    return ds.dataset(paths, schema=pa.schema(known), format="parquet", filesystem=fs)


def _read_schema(fs: pafs.FileSystem, path: str) -> pa.Schema:
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
            fits = pa.types.is_null(field.type) or actual == field.type or pa.types.is_dictionary(actual)
        if not fits:
            raise DataError(f"{path}: column {field.name!r} is {actual}, not {field.type}")
