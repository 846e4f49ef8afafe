"""Logs are opened only when every file keeps the contract; the error names file and column."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.errors import DataError
from limaml.experiment.exposures import VISITS, exposure_columns, exposure_schema, open_log

TIME = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY = date(2026, 3, 2)


def write(root, table: pa.Table, day: date = DAY, name: str = "part-0.parquet"):
    folder = root / f"date={day}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name)
    return folder / name


def visits(**columns) -> pa.Table:
    return pa.table({"member_id": [1, 2], "visit_time": pa.array([TIME] * 2, pa.timestamp("us", "UTC")), **columns})


def test_only_the_wanted_days_and_columns_are_read(tmp_path):
    for day in (1, 2, 3, 4):
        write(tmp_path, visits(more=["a", "b"]), date(2026, 3, day))
    days = [date(2026, 3, 2), date(2026, 3, 3)]
    assert open_log(str(tmp_path), VISITS, days).to_table().schema == VISITS
    assert open_log(str(tmp_path), VISITS, days).count_rows() == 4
    assert open_log(str(tmp_path), VISITS, days, earlier=True).count_rows() == 6
    assert open_log(str(tmp_path), VISITS).count_rows() == 8


def test_types_that_mean_the_same_are_read_as_one(tmp_path):
    write(tmp_path, visits(), name="a.parquet")
    other = visits(member_id=pa.array([3, 4], pa.int32()))
    write(tmp_path, other.set_column(1, "visit_time", pa.array([TIME] * 2, pa.timestamp("ms", "Asia/Tokyo"))))
    table = open_log(str(tmp_path), VISITS, [DAY]).to_table()
    assert table.schema == VISITS
    assert sorted(table["member_id"].to_pylist()) == [1, 2, 3, 4]
    assert set(table["visit_time"].to_pylist()) == {TIME}


def test_items_may_be_strings_and_variants_dictionaries(tmp_path):
    row = {"experiment": "e", "request_id": 1, "member_id": 1, "item_id": "x", "variant": "control", "label": 0}
    row["event_time"] = TIME
    table = pa.Table.from_pylist([row], schema=exposure_schema(pa.string()))
    index = table.schema.get_field_index("variant")
    write(tmp_path, table.set_column(index, "variant", table["variant"].dictionary_encode()))
    found = open_log(str(tmp_path), exposure_columns()).to_table().to_pylist()
    assert found[0] | {"reason": None} == row | {"reason": None}


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no parquet file"):
        open_log(str(tmp_path / "nowhere"), VISITS)


def test_a_missing_day_is_named(tmp_path):
    write(tmp_path, visits())
    with pytest.raises(DataError, match=r"date=2026-03-03 \(1 of 2 days"):
        open_log(str(tmp_path), VISITS, [DAY, date(2026, 3, 3)])


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path, visits().drop_columns("visit_time"))
    with pytest.raises(DataError, match=r"part-0\.parquet: no column 'visit_time'"):
        open_log(str(tmp_path), VISITS)


def test_naive_times_are_refused(tmp_path):
    write(tmp_path, visits(visit_time=pa.array([TIME.replace(tzinfo=None)] * 2, pa.timestamp("us"))))
    with pytest.raises(DataError, match=r"'visit_time' is timestamp\[us\], not timestamp\[us, tz=UTC\]"):
        open_log(str(tmp_path), VISITS)


def test_text_is_no_member(tmp_path):
    write(tmp_path, visits(member_id=["a", "b"]))
    with pytest.raises(DataError, match="'member_id' is string, not int64"):
        open_log(str(tmp_path), VISITS)


def test_a_truncated_file_is_named(tmp_path):
    path = write(tmp_path, visits())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"part-0\.parquet: not a readable parquet file"):
        open_log(str(tmp_path), VISITS)
