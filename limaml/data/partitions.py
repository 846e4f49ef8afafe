"""The day partitions of interactions below a data root: which files a window has, and whether their columns fit.

Everything here looks at listings and parquet footers only; what is found wrong is found before any row is read. Files
are read in batches of bounded size through Arrow, so that `file://` and `s3://` are one path.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from limaml import storage
from limaml.config import Application
from limaml.data.layout import DAY_PREFIX, INTERACTIONS, day_folder, days_of
from limaml.errors import DataError
from limaml.schema import EVENT_TIME, LABEL, TIMESTAMP
from limaml.windows import Window

_BATCH_ROWS = 1 << 18
# Column chunks are streamed: a file of one huge row group must not be read at once.
_BUFFER_BYTES = 1 << 20
_SHOWN = 10


@dataclass(frozen=True)
class SourceFile:
    """One parquet file of one day, as listed; `name` is relative to the data root."""

    day: date
    name: str
    uri: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Footer:
    """What a parquet file says of itself."""

    schema: pa.Schema
    rows: int


def list_window(data: str, window: Window) -> dict[date, list[SourceFile]]:
    """The files of every day of a window, by name; a day without a partition has none.

    Raises:
        DataError: there are no interactions, or none of the window's days is there.
    """
    root = storage.join(data, INTERACTIONS)
    known = days_of(data)
    if not known:
        raise DataError(
            f"{root}: no {DAY_PREFIX}YYYY-MM-DD partitions below it; give the data root that `limaml import` wrote, "
            "or upstream's folder that holds interactions/"
        )
    files = {day: _list_day(data, day) if day.isoformat() in known else [] for day in window.days}
    if not any(day.isoformat() in known for day in window.days):
        raise DataError(
            f"{root}: no data for the window [{window.start}, {window.end}); the days there are "
            f"{known[0]} to {known[-1]}: choose a later or earlier date, or import those days"
        )
    return files


def missing_days(data: str, window: Window) -> list[date]:
    """Days of the window that have no partition at all."""
    known = set(storage.list_directories(storage.join(data, INTERACTIONS)))
    return [day for day in window.days if day_folder(day) not in known]


def _list_day(data: str, day: date) -> list[SourceFile]:
    scheme = storage.normalize(data).partition("://")[0]
    base = len(storage.filesystem(data)[1].rstrip("/")) + 1
    found = storage.list_files(storage.join(data, INTERACTIONS, day_folder(day)), ".parquet")
    return [
        SourceFile(
            day=day,
            name=info.path[base:],
            uri=f"{scheme}://{info.path}",
            bytes=info.size,
            mtime_ns=info.mtime_ns or 0,
        )
        for info in found
    ]


@contextmanager
def _parquet_errors(file: SourceFile) -> Iterator[None]:
    """A file that is not parquet (any more) is the data's fault; a disk that can't be read is the storage's."""
    try:
        with storage.storage_errors(file.uri, "read"):
            try:
                yield
            except OSError as error:
                if error.errno is not None:
                    raise
                raise DataError(_broken(file, error)) from error
    except pa.ArrowInvalid as error:
        raise DataError(_broken(file, error)) from error


def _broken(file: SourceFile, error: Exception) -> str:
    return f"{file.uri}: truncated or not a parquet file ({file.bytes:,} bytes): {error}; write it again"


def read_footer(file: SourceFile) -> Footer:
    """Schema and row count of a file.

    Raises:
        DataError: it is truncated or not parquet.
    """
    fs, path = storage.filesystem(file.uri)
    with _parquet_errors(file), fs.open_input_file(path) as stream, pq.ParquetFile(stream) as parquet:
        return Footer(schema=parquet.schema_arrow, rows=parquet.metadata.num_rows)


def read_batches(file: SourceFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file, in order, a bounded number at a time.

    Raises:
        DataError: its pages can't be decoded.
    """
    fs, path = storage.filesystem(file.uri)
    with (
        _parquet_errors(file),
        fs.open_input_file(path) as stream,
        pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES) as parquet,
    ):
        yield from parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns)


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """A batch in another schema's columns, order and types; a column the file lacks is null.

    Only the event time may lose something: nanoseconds are cut to microseconds.
    """
    held = set(batch.schema.names)
    columns = [
        batch.column(field.name).cast(field.type, safe=field.name != EVENT_TIME)
        if field.name in held
        else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def required_columns(application: Application) -> list[tuple[str, str]]:
    """(column, role) of every column the application reads; a column may have several roles."""
    data = application.data
    keys = dict.fromkeys((*application.key_columns, data.member_column, data.item_column))
    roles = [(EVENT_TIME, "event time"), (LABEL, "label"), *((key, "key") for key in keys)]
    if data.row_id_column:
        roles.append((data.row_id_column, "row id"))
    return roles + [(feature.name, f"{feature.kind} feature") for feature in application.features.all]


def check_schemas(footers: dict[SourceFile, Footer], application: Application) -> dict[date, pa.Schema]:
    """The common schema of each day's files, columns by name.

    Raises:
        DataError: columns are missing, of a type their role doesn't allow, or of different types in files of one day;
            all of them at once, each with its file.
    """
    problems = [p for file, footer in footers.items() for p in _misfits(file, footer.schema, application)]
    schemas: dict[date, pa.Schema] = {}
    for file, footer in footers.items() if not problems else ():
        plain = _plain(footer.schema)
        try:
            schemas[file.day] = pa.unify_schemas(
                [schemas.get(file.day, pa.schema([])), plain], promote_options="permissive"
            )
        except pa.ArrowTypeError as error:
            problems.append(f"{file.uri}: differs from the day's files before it: {error}")
    if problems:
        more = f"\n  … and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        plural = "s" if len(problems) > 1 else ""
        raise DataError(
            f"{len(problems)} column problem{plural} in the interactions\n"
            + "\n".join(f"  {p}" for p in problems[:_SHOWN])
            + more
        )
    return {day: pa.schema(sorted(schema, key=lambda field: field.name)) for day, schema in schemas.items()}


def _plain(schema: pa.Schema) -> pa.Schema:
    """Without dictionaries, metadata and the unit of the event time: how values are stored, not what they are."""
    return pa.schema([pa.field(f.name, _plain_type(f)) for f in schema])


def _plain_type(field: pa.Field) -> pa.DataType:
    if field.name == EVENT_TIME and _is_time(field.type):
        return TIMESTAMP
    return field.type.value_type if pa.types.is_dictionary(field.type) else field.type


def _misfits(file: SourceFile, schema: pa.Schema, application: Application) -> Iterator[str]:
    names = schema.names
    for column, role in required_columns(application):
        fits, wanted = _ROLES[role]
        held = names.count(column)
        if held == 0:
            yield f"{file.uri}: column {column!r} is missing; {role} needs {wanted}. It has: {', '.join(names)}"
        elif held > 1:
            yield f"{file.uri}: column {column!r} is there {held} times; a name is one column"
        elif not fits(_plain(schema).field(column).type):
            advice = _advice(schema.field(column).type, role)
            yield f"{file.uri}: column {column!r} has type {schema.field(column).type}; {role} needs {wanted}{advice}"


def _advice(kind: pa.DataType, role: str) -> str:
    if role == "event time" and pa.types.is_timestamp(kind) and kind.tz is None:
        return "; a time without a zone is ambiguous: convert it to UTC where it is written"
    return ""


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_time(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz is not None


def _is_number(kind: pa.DataType) -> bool:
    """A column without any value has the type null, which every feature may have: null ratios judge it."""
    return (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    )


def _is_int64(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) and not pa.types.is_uint64(kind)


_ROLES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "event time": (_is_time, "timestamps with a time zone, such as timestamp[us, tz=UTC]"),
    "label": (pa.types.is_integer, "an integer column of 0 and 1"),
    "key": (lambda kind: _is_int64(kind) or _is_text(kind), "strings or integers that fit int64"),
    "row id": (_is_int64, "integers that fit int64"),
    "numeric feature": (_is_number, "numbers or booleans"),
    "categorical feature": (lambda kind: _is_number(kind) or _is_text(kind), "strings, numbers or booleans"),
}
