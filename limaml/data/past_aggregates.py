"""A flat log by logical day, each day's rows with aggregates of strictly earlier days, through DuckDB.

Days are taken in order: each is joined to the totals so far, written, and only then added to them. So memory is bounded
by the distinct keys and one day's sort, and DuckDB spills what passes its limit.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from limaml.config import PastAggregate
from limaml.errors import DataError, StorageError
from limaml.schema import EVENT_TIME, LABEL, TIMESTAMP
from limaml.windows import Window

if TYPE_CHECKING:
    import duckdb

_MEMORY = "1GiB"
_SPILL_SHARE = 0.8  # of the free disk
_BATCH_ROWS = 1 << 16
_FILE, _ROW = "_limaml_file", "_limaml_row"
_EPOCH = date(1970, 1, 1)
_FIRST_PRIOR = 0.5


@contextmanager
def database(spill: str, sources: Sequence[str]) -> Iterator["duckdb.DuckDBPyConnection"]:
    """An in-memory DuckDB that spills to a directory; its errors become ours."""
    import duckdb

    limit = int(shutil.disk_usage(spill).free * _SPILL_SHARE)
    settings: dict[str, Any] = {
        "memory_limit": _MEMORY,
        "temp_directory": spill,
        "max_temp_directory_size": f"{limit}B",
        "autoinstall_known_extensions": False,
    }
    try:
        with duckdb.connect(config=settings) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
    except duckdb.OutOfMemoryException as error:
        raise StorageError(f"import ran out of memory ({_MEMORY}) and of disk to spill to: {error}") from error
    except duckdb.Error as error:
        raise DataError(f"{', '.join(sources)}: can't be read through: {error}") from error


def prepare(
    connection: "duckdb.DuckDBPyConnection",
    paths: Sequence[Path],
    utc_offset_hours: int,
    aggregates: Sequence[PastAggregate],
) -> list[date]:
    """Make the view `log` and empty totals, and list the log's logical days.

    Raises:
        DataError: rows without a time, or no rows.
    """
    listed = ", ".join(_text(str(path)) for path in paths)
    connection.execute(
        f"CREATE TEMP VIEW log AS SELECT * REPLACE ({EVENT_TIME}::TIMESTAMPTZ AS {EVENT_TIME}), "
        f"file_index AS {_FILE}, file_row_number AS {_ROW} "
        f"FROM read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
    )
    for position, keys in enumerate([aggregate.keys for aggregate in aggregates]):
        connection.execute(f"CREATE TEMP TABLE total_{position} AS {_counts(keys, '(FROM log LIMIT 0)')}")
    connection.execute("CREATE TEMP TABLE total (n BIGINT, p BIGINT)")
    day = f"CAST(floor((epoch_us({EVENT_TIME}) / 1e6 + {utc_offset_hours * 3600}) / 86400) AS INTEGER)"
    found = connection.execute(f"SELECT {day}, count(*) FROM log GROUP BY 1 ORDER BY 1").fetchall()
    if timeless := sum(count for number, count in found if number is None):
        raise DataError(f"column {EVENT_TIME}: {timeless:,} rows without a time belong to no day; remove them")
    if not found:
        raise DataError(f"{paths[0]}: no rows to import")
    return [_EPOCH + timedelta(days=number) for number, _ in found]


def write_day(
    connection: "duckdb.DuckDBPyConnection", window: Window, aggregates: Sequence[PastAggregate], path: Path
) -> int:
    """Write a day's rows with the totals of the days before, then add the day to the totals."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE today AS SELECT * FROM log WHERE {EVENT_TIME} >= ? AND {EVENT_TIME} < ?",
        [window.start_time, window.end_time],
    )
    rows = 0
    reader = connection.sql(_select(aggregates)).to_arrow_reader(_BATCH_ROWS)
    schema = _stamped(pa.Table.from_batches([], reader.schema)).schema
    with pq.ParquetWriter(path, schema) as writer:
        for batch in reader:
            writer.write_table(_stamped(pa.Table.from_batches([batch])))
            rows += batch.num_rows
    connection.execute(f"INSERT INTO total {_counts((), 'today')}")
    for position, aggregate in enumerate(aggregates):
        names = "".join(f"{_name(key)}, " for key in aggregate.keys)
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE total_{position} AS SELECT {names}sum(n)::BIGINT AS n, sum(p)::BIGINT AS p "
            f"FROM (FROM total_{position} UNION ALL BY NAME {_counts(aggregate.keys, 'today')}) GROUP BY ALL"
        )
    return rows


def _counts(keys: Sequence[str], relation: str) -> str:
    """Labelled rows and positives of a relation, by keys."""
    names = "".join(f"{_name(key)}, " for key in keys)
    counts = f"count(*) FILTER ({LABEL} IN (0, 1)) AS n, count(*) FILTER ({LABEL} = 1) AS p"
    return f"SELECT {names}{counts} FROM {relation} GROUP BY ALL"


def _select(aggregates: Sequence[PastAggregate]) -> str:
    """Today's rows with their aggregates, in the order of time."""
    prior = f"(SELECT CASE WHEN sum(n) > 0 THEN sum(p) / sum(n) ELSE {_FIRST_PRIOR} END FROM total)"
    columns, joins = "", ""
    for position, aggregate in enumerate(aggregates):
        past, smoothing = f"total_{position}", f"{aggregate.smoothing!r}::DOUBLE"
        matches = " AND ".join(f"{past}.{_name(key)} IS NOT DISTINCT FROM today.{_name(key)}" for key in aggregate.keys)
        joins += f" LEFT JOIN {past} ON {matches}"
        n, p = f"coalesce({past}.n, 0)::DOUBLE", f"coalesce({past}.p, 0)::DOUBLE"
        value = f"({p} + {smoothing} * {prior}) / ({n} + {smoothing})" if aggregate.statistic == "rate" else n
        columns += f", {value} AS {_name(aggregate.name)}"
    return f"""
        SELECT today.* EXCLUDE ({_FILE}, {_ROW}) REPLACE (epoch_us(today.{EVENT_TIME}) AS {EVENT_TIME}){columns}
        FROM today{joins} ORDER BY today.{EVENT_TIME}, today.{_FILE}, today.{_ROW}"""


def _stamped(table: pa.Table) -> pa.Table:
    """Microseconds as integers become times: DuckDB's own would carry the session's zone and the source's unit."""
    position = table.schema.get_field_index(EVENT_TIME)
    return table.set_column(position, pa.field(EVENT_TIME, TIMESTAMP), table.column(position).cast(TIMESTAMP))


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
