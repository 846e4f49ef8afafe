"""Clean interactions of a few days, and an application that reads them, for the tests of validation."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limaml.config import Application, parse_application
from limaml.schema import TIMESTAMP
from limaml.windows import Window

START = date(2026, 3, 1)
DAYS = [START + timedelta(days=n) for n in range(3)]
WINDOW = Window(start=START, end=START + timedelta(days=3))
# Members no other value can be mistaken for: none of them may show on a page or in a log.
FIRST_MEMBER = 770_000_000
ROWS = 200


def make_application(row_id: bool = True, **validation: Any) -> Application:
    return parse_application(
        {
            "name": "tiny",
            "title": "Tiny",
            "task": {"keys": ["member_id"]},
            "data": {"row_id_column": "row"} if row_id else {},
            "features": {
                "meta": ["age", {"name": "kind", "kind": "categorical"}],
                "other": [{"name": "hour", "minimum": 0, "maximum": 23}, {"name": "price", "maximum_null_ratio": 0.2}],
            },
            "validation": validation,
        },
        "tests",
    )


def day_columns(day: date, rows: int = ROWS, offset_hours: int = 0) -> dict[str, list[Any]]:
    """A clean day as plain lists, so that a test can spoil any cell."""
    rng = np.random.default_rng(day.toordinal())
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=offset_hours)
    return {
        "member_id": [FIRST_MEMBER + int(n) for n in rng.integers(0, rows // 4, rows)],
        "item_id": rng.integers(0, 50, rows).tolist(),
        "row": [day.toordinal() * 1_000_000 + n for n in range(rows)],
        "event_time": [midnight + timedelta(seconds=n * 86_399 / rows) for n in range(rows)],
        "label": [int(n % 4 == 0) for n in range(rows)],
        "age": rng.normal(size=rows).tolist(),
        "kind": [f"k{n}" for n in rng.integers(0, 3, rows)],
        "hour": rng.integers(0, 24, rows).tolist(),
        "price": rng.uniform(size=rows).tolist(),
    }


SCHEMA = pa.schema(
    [
        ("member_id", pa.int64()),
        ("item_id", pa.int64()),
        ("row", pa.int64()),
        ("event_time", TIMESTAMP),
        ("label", pa.int8()),
        ("age", pa.float64()),
        ("kind", pa.string()),
        ("hour", pa.int32()),
        ("price", pa.float32()),
    ]
)


def write_day(
    root: Path, day: date, columns: dict[str, list[Any]], schema: pa.Schema = SCHEMA, part: str = "part-0"
) -> Path:
    """Write one file of a day's partition."""
    path = root / "interactions" / f"date={day}" / f"{part}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=schema), path)
    return path


def write_clean(root: Path) -> Path:
    """Three clean days, each in two files."""
    for day in DAYS:
        columns = day_columns(day)
        for part, half in enumerate((slice(None, ROWS // 2), slice(ROWS // 2, None))):
            write_day(root, day, {name: values[half] for name, values in columns.items()}, part=f"part-{part}")
    return root
