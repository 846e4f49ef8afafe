"""Whatever is wrong with the rows: none is lost, none that breaks a rule is kept, none is blamed for nothing."""

import math
import tempfile
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from limaml import storage
from limaml.data.validation import validate
from limaml.errors import DataError
from limaml.manifest import file_uri, read_manifest
from limaml.windows import Window
from tests.limaml.data.validation_data import DAYS, day_columns, make_application, write_day

ROWS = 40
MIDNIGHT = datetime(DAYS[0].year, DAYS[0].month, DAYS[0].day, tzinfo=UTC)
MIDNIGHT_AFTER = MIDNIGHT + timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)

numbers = st.one_of(st.none(), st.floats(width=64), st.sampled_from([3.5e38, -3.5e38, 3.4e38]))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "member_id": st.sampled_from([None, 1, 2]),
    "item_id": st.sampled_from([None, 1, -(2**63)]),
    "row": st.sampled_from([None, 1, 2, 3, 2**63 - 1]),
    "event_time": st.sampled_from(
        [None, MIDNIGHT, MIDNIGHT - MICROSECOND, MIDNIGHT_AFTER, MIDNIGHT_AFTER - MICROSECOND]
    ),
    "label": st.sampled_from([None, -1, 0, 1, 2, 127]),
    "age": numbers,
    "kind": st.sampled_from([None, "", "k"]),
    "hour": st.sampled_from([None, -1, 0, 23, 24]),
    "price": st.one_of(st.none(), st.floats(width=32)),
}
corruptions = st.lists(
    st.sampled_from(sorted(VALUES)).flatmap(
        lambda column: st.tuples(st.integers(0, ROWS - 1), st.just(column), VALUES[column])
    ),
    max_size=25,
)


def broken_rule(row: dict[str, Any]) -> str | None:
    """The rules once more, one row at a time in plain Python."""
    for key in ("member_id", "item_id"):
        if row[key] is None:
            return f"null_key:{key}"
    if row["event_time"] is None:
        return "null_time:event_time"
    if row["event_time"] < MIDNIGHT:
        return "out_of_partition_late:event_time"
    if row["event_time"] >= MIDNIGHT_AFTER:
        return "out_of_partition_future:event_time"
    if row["label"] not in (0, 1):
        return "label_not_0_or_1:label"
    if row["row"] is None:
        return "null_row_id:row"
    for name in ("age", "hour", "price"):
        value = row[name]
        if value is not None and (not math.isfinite(value) or abs(value) > 3.4028234663852886e38):
            return f"not_finite:{name}"
        if name == "hour" and value is not None and not 0 <= value <= 23:
            return "out_of_range:hour"
    return None


@settings(max_examples=15, derandomize=True)
@given(corruptions, st.integers(1, ROWS - 1))
def test_rows_are_conserved_and_judged_as_by_a_slow_reference(corrupted: list[tuple[int, str, Any]], cut: int) -> None:
    columns = day_columns(DAYS[0], ROWS)
    for row, column, value in corrupted:
        columns[column][row] = value
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    expected = Counter(reason for row in rows if (reason := broken_rule(row)))
    clean = [row for row in rows if not broken_rule(row)]
    repeated = len(clean) - len({row["row"] for row in clean})
    expected += Counter({"duplicate:row": repeated})

    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder, "data"), str(Path(folder, "out"))
        for part, piece in (("a", slice(None, cut)), ("b", slice(cut, None))):
            write_day(data, DAYS[0], {name: values[piece] for name, values in columns.items()}, part=part)
        with suppress(DataError):  # the window may be refused; its rows are split all the same
            validate(str(data), output, make_application(), Window(start=DAYS[0], end=DAYS[1]))
        manifest = read_manifest(output, "validated")
        kept = [
            row
            for entry in manifest.files
            for row in pq.ParquetFile(storage.local_path(file_uri(output, entry))).read().to_pylist()
        ]
        taken = [
            row
            for path in Path(output, "quarantine").glob("*.parquet")
            for row in pq.ParquetFile(path).read().to_pylist()
        ]

    assert manifest.counts == {"rows": ROWS, "kept": len(kept), "quarantined": len(taken)}
    assert Counter(row.pop("reason") for row in taken) == expected
    for row in taken:
        row.pop("source_file")
    assert Counter(map(spell, kept + taken)) == Counter(map(spell, rows))
    assert [row for row in kept if broken_rule(row)] == []
    identifiers = [row["row"] for row in kept]
    assert len(identifiers) == len(set(identifiers))
    # Of rows that share an identifier the earliest stays.
    first = {n: min(row["event_time"] for row in clean if row["row"] == n) for n in identifiers}
    assert {row["row"]: row["event_time"] for row in kept} == first


def spell(row: dict[str, Any]) -> str:
    """A row as text, so that NaN equals NaN; `price` is stored as float32 and left to the other columns."""
    return repr(sorted((name, str(value)) for name, value in row.items() if name != "price"))
