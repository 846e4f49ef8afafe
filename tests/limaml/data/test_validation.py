"""Validation of a window: what is kept, what is quarantined and why, when the window is refused."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml import storage
from limaml.config import Application
from limaml.data.validation import PAGE, RESULT, validate
from limaml.errors import DataError
from limaml.manifest import Manifest, file_uri, read_manifest, verify_files
from limaml.windows import Window
from tests.limaml.data.validation_data import (
    DAYS,
    FIRST_MEMBER,
    ROWS,
    SCHEMA,
    WINDOW,
    day_columns,
    make_application,
    write_clean,
    write_day,
)


def kept_rows(output: Path | str, manifest: Manifest) -> list[dict[str, Any]]:
    rows = []
    for entry in manifest.files:
        fs, path = storage.filesystem(file_uri(str(output), entry))
        rows += pq.ParquetFile(fs.open_input_file(path)).read().to_pylist()
    return rows


def quarantined_rows(output: Path) -> list[dict[str, Any]]:
    return [
        row
        for path in sorted((output / "quarantine").glob("*.parquet"))
        for row in pq.ParquetFile(path).read().to_pylist()
    ]


@pytest.fixture
def lenient() -> Application:
    return make_application(quarantine_budget=1, maximum_duplicate_ratio=1, maximum_late_ratio=1)


def test_clean_files_are_referred_to_and_not_copied(tmp_path: Path) -> None:
    root = write_clean(tmp_path / "data")
    manifest = validate(str(root), str(tmp_path / "out"), make_application(), WINDOW)
    assert manifest.kind == "validated"
    assert manifest.counts == {"rows": 3 * ROWS, "kept": 3 * ROWS, "quarantined": 0}
    assert [entry.path for entry in manifest.files] == [
        f"file://{path}" for path in sorted((root / "interactions").rglob("*.parquet"))
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"manifest.json", PAGE, RESULT}
    assert manifest.details["days"][str(DAYS[0])]["files"] == [entry.path for entry in manifest.files[:2]]
    verify_files(str(tmp_path / "out"), manifest)


SPOILS: list[tuple[str, str, Any]] = [
    ("null_key:member_id", "member_id", None),
    ("null_key:item_id", "item_id", None),
    ("null_time:event_time", "event_time", None),
    ("out_of_partition_late:event_time", "event_time", day_columns(DAYS[0])["event_time"][0] - timedelta(seconds=1)),
    ("out_of_partition_future:event_time", "event_time", day_columns(DAYS[1])["event_time"][0]),
    ("label_not_0_or_1:label", "label", 2),
    ("label_not_0_or_1:label", "label", -1),
    ("label_not_0_or_1:label", "label", None),
    ("null_row_id:row", "row", None),
    ("not_finite:age", "age", float("nan")),
    ("not_finite:age", "age", float("-inf")),
    ("not_finite:age", "age", 1e39),
    ("not_finite:price", "price", float("inf")),
    ("out_of_range:hour", "hour", 24),
    ("out_of_range:hour", "hour", -1),
    ("duplicate:row", "row", DAYS[0].toordinal() * 1_000_000),
]


def test_every_row_rule_takes_its_rows_out_with_reason_and_source(tmp_path: Path, lenient: Application) -> None:
    root = write_clean(tmp_path / "data")
    columns = day_columns(DAYS[0])
    for index, (_, column, value) in enumerate(SPOILS):
        columns[column][10 + index] = value
    columns["age"][50] = None  # a null feature is no fault
    write_day(root, DAYS[0], {name: values[100:] for name, values in columns.items()}, part="part-1")
    write_day(root, DAYS[0], {name: values[:100] for name, values in columns.items()})
    manifest = validate(str(root), str(tmp_path / "out"), lenient, WINDOW)
    assert manifest.counts == {"rows": 3 * ROWS, "kept": 3 * ROWS - len(SPOILS), "quarantined": len(SPOILS)}
    rows = quarantined_rows(tmp_path / "out")
    assert [row["reason"] for row in rows] == [reason for reason, _, _ in SPOILS]
    assert {row["source_file"] for row in rows} == {f"interactions/date={DAYS[0]}/part-0.parquet"}
    assert list(rows[0]) == ["reason", "source_file", *sorted(SCHEMA.names)]
    # Only the file that held bad rows is rewritten.
    assert [e.path for e in manifest.files if "://" not in e.path] == [f"kept/date={DAYS[0]}/part-0.parquet"]
    verify_files(str(tmp_path / "out"), manifest)


def test_page_and_messages_show_values_but_no_member(tmp_path: Path) -> None:
    root = write_clean(tmp_path / "data")
    columns = day_columns(DAYS[1])
    columns["hour"][7] = 99
    columns["item_id"][8] = None
    write_day(root, DAYS[1], {name: values[:100] for name, values in columns.items()})
    with pytest.raises(DataError) as caught:
        validate(str(root), str(tmp_path / "out"), make_application(quarantine_budget=0), WINDOW)
    page = (tmp_path / "out" / PAGE).read_text()
    assert "must not be used" in page
    assert ">99<" in page
    assert "out_of_range:hour" in page
    for text in (page, (tmp_path / "out" / RESULT).read_text(), str(caught.value)):
        assert str(FIRST_MEMBER)[:5] not in text
    for outside in ("<script", "http-equiv", 'src="', "<link"):
        assert outside not in page


def test_a_refused_window_is_written_and_refused_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_clean(tmp_path / "data")
    columns = day_columns(DAYS[2])
    columns["label"] = [2] * ROWS
    write_day(root, DAYS[2], columns)
    (root / "interactions" / f"date={DAYS[2]}" / "part-1.parquet").unlink()
    messages = []
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            validate(str(root), str(tmp_path / "out"), make_application(), WINDOW)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "quarantine_budget: whole window 0.3333 (allowed: at most 0.01)" in messages[0]
    assert PAGE in messages[0]
    manifest = read_manifest(str(tmp_path / "out"), "validated")
    assert manifest.details["passed"] is False
    assert json.loads((tmp_path / "out" / RESULT).read_text())["passed"] is False
    caplog.clear()


def test_a_rerun_does_nothing_and_a_changed_file_is_validated_again(tmp_path: Path) -> None:
    root = write_clean(tmp_path / "data")
    first = validate(str(root), str(tmp_path / "out"), make_application(), WINDOW)
    assert validate(str(root), str(tmp_path / "out"), make_application(), WINDOW) == first
    columns = day_columns(DAYS[0], rows=ROWS + 4)
    write_day(root, DAYS[0], columns)
    (root / "interactions" / f"date={DAYS[0]}" / "part-1.parquet").unlink()
    again = validate(str(root), str(tmp_path / "out"), make_application(), WINDOW)
    assert again.counts["rows"] == 3 * ROWS + 4


def _drop_a_column(root: Path) -> None:
    columns = day_columns(DAYS[1])
    del columns["price"]
    write_day(root, DAYS[1], columns, pa.schema([f for f in SCHEMA if f.name != "price"]))


def _retype(column: str, kind: pa.DataType, convert: Callable[[Any], Any]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        columns = day_columns(DAYS[1])
        columns[column] = [convert(value) for value in columns[column]]
        index = SCHEMA.get_field_index(column)
        write_day(root, DAYS[1], columns, SCHEMA.set(index, pa.field(column, kind)))

    return spoil


def _truncate(root: Path) -> None:
    path = root / "interactions" / f"date={DAYS[1]}" / "part-0.parquet"
    path.write_bytes(path.read_bytes()[:-200])


def _scramble(root: Path) -> None:
    """The footer is whole, the pages are not."""
    path = root / "interactions" / f"date={DAYS[1]}" / "part-0.parquet"
    content = bytearray(path.read_bytes())
    content[4:1500] = bytes(1496)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(_drop_a_column, "column 'price' is missing", id="missing column"),
        pytest.param(_retype("age", pa.string(), str), "column 'age' has type string", id="text as numeric feature"),
        pytest.param(_retype("label", pa.float32(), float), "column 'label' has type float", id="float label"),
        pytest.param(_retype("member_id", pa.float64(), float), "column 'member_id' has type double", id="float key"),
        pytest.param(
            _retype("event_time", pa.timestamp("us"), lambda t: t.replace(tzinfo=None)),
            "column 'event_time' has type timestamp[us]; event time needs timestamps with a time zone",
            id="naive time",
        ),
        pytest.param(_truncate, "truncated or not a parquet file", id="truncated file"),
        pytest.param(_scramble, "truncated or not a parquet file", id="scrambled pages"),
    ],
)
def test_a_broken_file_is_named_and_nothing_is_written(
    tmp_path: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    root = write_clean(tmp_path / "data")
    spoil(root)
    with pytest.raises(DataError) as caught:
        validate(str(root), str(tmp_path / "ws" / "out"), make_application(), WINDOW)
    assert expected in str(caught.value)
    assert f"date={DAYS[1]}/part-0.parquet" in str(caught.value)
    assert list((tmp_path / "ws").rglob("*")) == []


def test_all_column_problems_are_told_at_once(tmp_path: Path) -> None:
    root = write_clean(tmp_path / "data")
    schema = pa.schema([("member_id", pa.int64()), ("label", pa.int64()), ("row", pa.int64())])
    write_day(root, DAYS[0], {name: day_columns(DAYS[0])[name] for name in schema.names}, schema)
    with pytest.raises(DataError, match="6 column problems") as caught:
        validate(str(root), str(tmp_path / "out"), make_application(), WINDOW)
    for column in ("item_id", "event_time", "age", "kind", "hour", "price"):
        assert repr(column) in str(caught.value)


def test_a_window_outside_the_data_says_which_days_there_are(tmp_path: Path) -> None:
    root = write_clean(tmp_path / "data")
    before = Window(start=DAYS[0] - timedelta(days=9), end=DAYS[0])
    with pytest.raises(DataError, match=f"no data for the window.*{DAYS[0]} to {DAYS[-1]}"):
        validate(str(root), str(tmp_path / "out"), make_application(), before)
    with pytest.raises(DataError, match="no date=YYYY-MM-DD partitions"):
        validate(str(tmp_path / "nowhere"), str(tmp_path / "out"), make_application(), WINDOW)
    assert not (tmp_path / "out").exists()


def test_logical_days_follow_the_offset(tmp_path: Path, lenient: Application) -> None:
    """In UTC+8 the day of 1 March runs from 16:00 UTC on 28 February; two rows lie just outside."""
    columns = day_columns(DAYS[0], offset_hours=8)
    columns["event_time"][5] = columns["event_time"][0] - timedelta(microseconds=1)
    columns["event_time"][6] = columns["event_time"][0] + timedelta(days=1)
    columns["event_time"][7] = columns["event_time"][6] - timedelta(microseconds=1)
    write_day(tmp_path / "data", DAYS[0], columns)
    window = Window(start=DAYS[0], end=DAYS[1], utc_offset_hours=8)
    validate(str(tmp_path / "data"), str(tmp_path / "out"), lenient, window)
    assert Counter(row["reason"] for row in quarantined_rows(tmp_path / "out")) == {
        "out_of_partition_late:event_time": 1,
        "out_of_partition_future:event_time": 1,
    }


def test_rows_equal_in_all_columns_are_duplicates_where_rows_have_no_identifier(tmp_path: Path) -> None:
    application = make_application(row_id=False, quarantine_budget=1, maximum_duplicate_ratio=1)
    columns = day_columns(DAYS[0])
    schema = pa.schema([*SCHEMA, ("tags", pa.list_(pa.string()))])
    columns["tags"] = [["a", None] if n % 2 else None for n in range(ROWS)]
    doubled = {name: [*values, values[3], values[4], values[3]] for name, values in columns.items()}
    doubled["age"][-1] += 1e-9  # differs in its last bits: no duplicate
    write_day(tmp_path / "data", DAYS[0], columns, schema, part="a")
    write_day(tmp_path / "data", DAYS[0], {n: v[-3:] for n, v in doubled.items()}, schema, part="b")
    manifest = validate(str(tmp_path / "data"), str(tmp_path / "out"), application, Window(start=DAYS[0], end=DAYS[1]))
    rows = quarantined_rows(tmp_path / "out")
    assert [(row["reason"], row["row"], Path(row["source_file"]).name) for row in rows] == [
        ("duplicate", columns["row"][3], "b.parquet"),
        ("duplicate", columns["row"][4], "b.parquet"),
    ]
    assert manifest.counts["kept"] == ROWS + 1


def test_which_of_two_rows_with_one_identifier_stays_does_not_depend_on_files(tmp_path: Path) -> None:
    application = make_application(quarantine_budget=1, maximum_duplicate_ratio=1)
    columns = day_columns(DAYS[0])
    columns["row"][150] = columns["row"][20]
    columns["row"][151] = columns["row"][20]
    columns["member_id"][20] = None  # the earliest is unusable, so the second stays
    window = Window(start=DAYS[0], end=DAYS[1])
    kept = []
    for name, order in (("ascending", 1), ("descending", -1)):
        rows = {column: values[::order] for column, values in columns.items()}
        for part, half in enumerate((slice(None, 90), slice(90, None))):
            write_day(tmp_path / name, DAYS[0], {c: v[half] for c, v in rows.items()}, part=f"part-{part}")
        manifest = validate(str(tmp_path / name), str(tmp_path / f"{name}-out"), application, window)
        kept.append(sorted(kept_rows(tmp_path / f"{name}-out", manifest), key=lambda row: row["event_time"]))
    assert kept[0] == kept[1]
    assert [r["event_time"] for r in kept[0] if r["row"] == columns["row"][20]] == [columns["event_time"][150]]


def test_files_of_one_day_may_store_their_columns_differently(tmp_path: Path) -> None:
    """Order, width, dictionaries and an extra column are storage; a row that is doubled across such files is found."""
    application = make_application(row_id=False, quarantine_budget=1, maximum_duplicate_ratio=1)
    columns = day_columns(DAYS[0])
    write_day(tmp_path / "data", DAYS[0], columns, part="a")
    table = pa.table(columns, schema=SCHEMA).slice(0, 1)
    table = table.set_column(4, "label", table["label"].cast(pa.int64()))
    table = table.set_column(6, "kind", table["kind"].dictionary_encode())
    table = table.set_column(3, "event_time", table["event_time"].cast(pa.timestamp("ns", tz="Asia/Shanghai")))
    table = table.select(list(reversed(table.column_names)))
    pq.write_table(table, tmp_path / "data" / "interactions" / f"date={DAYS[0]}" / "b.parquet")
    manifest = validate(str(tmp_path / "data"), str(tmp_path / "out"), application, Window(start=DAYS[0], end=DAYS[1]))
    assert manifest.counts == {"rows": ROWS + 1, "kept": ROWS, "quarantined": 1}
    assert quarantined_rows(tmp_path / "out")[0]["event_time"] == columns["event_time"][0]


def test_s3_in_and_out(tmp_path: Path, s3: str, lenient: Application) -> None:
    root = tmp_path / "data"
    columns = day_columns(DAYS[0])
    columns["hour"][3] = 77
    write_day(root, DAYS[0], columns, part="a")
    columns = day_columns(DAYS[0])
    columns["row"] = [row + ROWS for row in columns["row"]]
    write_day(root, DAYS[0], columns, part="b")
    for path in root.rglob("*.parquet"):
        storage.write_bytes(storage.join(s3, "data", str(path.relative_to(root))), path.read_bytes())
    output = storage.join(s3, "out")
    manifest = validate(storage.join(s3, "data"), output, lenient, Window(start=DAYS[0], end=DAYS[1]))
    assert manifest.counts == {"rows": 2 * ROWS, "kept": 2 * ROWS - 1, "quarantined": 1}
    assert sorted(entry.path.partition("/")[0] for entry in manifest.files) == ["kept", "s3:"]
    verify_files(output, manifest)
    assert len(kept_rows(output, manifest)) == 2 * ROWS - 1
