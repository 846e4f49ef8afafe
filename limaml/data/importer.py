"""Turn a flat log into interactions by logical day, with features computed from the past.

A row's past aggregates come from strictly earlier logical days only, so nothing of the day being predicted leaks into
its features. Visits and sign-ups are not derived: a log of interactions does not know who came and saw nothing.
"""

import tempfile
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa

from limaml import storage
from limaml.config import Application
from limaml.console import progress
from limaml.data.layout import INTERACTIONS, days_of, part_path, refuse_foreign
from limaml.data.partitions import Footer, SourceFile, check_schemas, read_footer, required_columns
from limaml.data.past_aggregates import database, prepare, write_day
from limaml.errors import ConfigError, DataError
from limaml.manifest import Manifest
from limaml.schema import EVENT_TIME
from limaml.stage import Stage, entries
from limaml.windows import Window

KIND = "interactions"
_NO_DAY = date(1970, 1, 1)  # a flat file has many


def import_log(source: str, output: str, application: Application) -> Manifest:
    """Write `interactions/date=D/part-000.parquet` from one flat parquet file, or a directory of them.

    All columns are kept; `event_time` becomes UTC microseconds, and the application's `data.source.aggregates` are
    added as doubles. `count` is the number of earlier labelled rows with the same keys (null is a value like others);
    `rate` is (positives + smoothing · prior) / (count + smoothing), where the prior is the rate of all earlier days,
    and 0.5 where there are none. Rows lie in the order of time, then of the source (files by name). Labels other
    than 0 and 1 are passed on, for validation to judge, but never counted.

    Counts: rows, days, source_files. Details: start and end (half-open logical days), aggregates.

    Args:
        source: a local path or `file://` URI.
        output: URI of the data root to write.

    Raises:
        ConfigError: the source is a data root already, or the output holds something else.
        DataError: a file is unreadable; a column is missing or of the wrong type; a time has no zone or is null.
        StorageError: memory, or disk to spill to, ran out.
    """
    files = _source_files(source, output)
    refuse_foreign(output, KIND)
    footers = {file: read_footer(file) for file in files}
    _check_columns(footers, application)
    columns = [name for name, _ in required_columns(application)]
    identity = {
        "source": [[file.name, storage.sha256(file.uri)] for file in files],
        "utc_offset_hours": application.windows.utc_offset_hours,
        "columns": sorted(set(columns)),
    }
    stage = Stage(KIND, output, application, ("data",), identity)
    return stage.run(lambda directory: _write(directory, footers, application, stage))


def _source_files(source: str, output: str) -> list[SourceFile]:
    path = storage.local_path(source)
    if path.is_dir() and days_of(source):
        raise ConfigError(f"{source}: already has {INTERACTIONS}/date=…: it needs no import, use it as the data root")
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    found = [one for one in found if not any(part.startswith((".", "_")) for part in one.relative_to(path).parts)]
    if not found or not found[0].is_file():
        raise ConfigError(f"{source}: no parquet file there; give a .parquet file or a directory that holds some")
    if path.is_dir() and storage.is_local(output) and storage.local_path(output).is_relative_to(path):
        raise ConfigError(f"{output}: lies inside the source {source}; the next import would read its own output")
    base = path if path.is_dir() else path.parent
    return [
        SourceFile(
            day=_NO_DAY,
            name=str(one.relative_to(base)),
            uri=storage.normalize(one),
            bytes=one.stat().st_size,
            mtime_ns=one.stat().st_mtime_ns,
        )
        for one in found
    ]


def _check_columns(footers: dict[SourceFile, Footer], application: Application) -> None:
    """What the interactions need, less the aggregates, plus what those are computed from."""
    aggregates = application.data.source.aggregates
    computed = {aggregate.name for aggregate in aggregates}
    features = application.features
    left = {side: tuple(f for f in getattr(features, side) if f.name not in computed) for side in ("meta", "other")}
    given = application.model_copy(update={"features": features.model_copy(update=left)})
    for file, footer in footers.items():
        names = set(footer.schema.names)
        if clash := sorted(computed & names):
            raise DataError(
                f"{file.uri}: column {clash[0]!r} is there already, but data.source.aggregates of {application.name} "
                "would compute it; rename one of them"
            )
        for aggregate in aggregates:
            if missing := [key for key in aggregate.keys if key not in names]:
                raise DataError(
                    f"{file.uri}: column {missing[0]!r} is missing; aggregate {aggregate.name} groups by it"
                )
    check_schemas({file: Footer(_in_microseconds(f.schema), f.rows) for file, f in footers.items()}, given)


def _in_microseconds(schema: pa.Schema) -> pa.Schema:
    """The import converts any unit of time, but invents no zone."""
    position = schema.get_field_index(EVENT_TIME)
    if position < 0 or not pa.types.is_timestamp(schema.field(position).type):
        return schema
    zone = schema.field(position).type.tz
    return schema.set(position, pa.field(EVENT_TIME, pa.timestamp("us", tz=zone)))


def _write(directory: Path, footers: dict[SourceFile, Footer], application: Application, stage: Stage) -> Manifest:
    aggregates, offset = application.data.source.aggregates, application.windows.utc_offset_hours
    total = sum(footer.rows for footer in footers.values())
    rows: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory(dir=directory, prefix=".spill-") as spill,
        database(spill, [file.uri for file in footers]) as connection,
        progress() as bar,
    ):
        days = prepare(connection, [storage.local_path(file.uri) for file in footers], offset, aggregates)
        task = bar.add_task("import", total=total, note="")
        for day in days:
            window = Window(start=day, end=day + timedelta(days=1), utc_offset_hours=offset)
            path = part_path(directory, INTERACTIONS, day)
            count = write_day(connection, window, aggregates, path)
            rows[str(path.relative_to(directory))] = count
            bar.update(task, advance=count, note=str(day))
    if sum(rows.values()) != total:
        raise DataError(f"the source files' footers promise {total:,} rows, but {sum(rows.values()):,} could be read")
    counts = {"rows": total, "days": len(days), "source_files": len(footers)}
    details = {
        "start": days[0].isoformat(),
        "end": (days[-1] + timedelta(days=1)).isoformat(),
        "utc_offset_hours": offset,
        "aggregates": [aggregate.name for aggregate in aggregates],
    }
    return stage.manifest(entries(directory, rows), counts, details)
