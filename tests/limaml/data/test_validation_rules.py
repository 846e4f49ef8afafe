"""Rules about whole days and windows: each fails on its own, and all that fail are told at once."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from limaml.data.expectations import judge
from limaml.data.profile import ColumnProfile, DayProfile
from limaml.data.validation import RESULT, validate
from limaml.errors import DataError
from tests.limaml.data.validation_data import (
    DAYS,
    ROWS,
    WINDOW,
    day_columns,
    make_application,
    write_clean,
    write_day,
)


def spoil_day(root: Path, change: Callable[[dict[str, list[Any]]], None], rows: int = ROWS) -> None:
    """Replace the middle day by a changed one."""
    columns = day_columns(DAYS[1], rows)
    change(columns)
    for path in (root / "interactions" / f"date={DAYS[1]}").iterdir():
        path.unlink()
    write_day(root, DAYS[1], columns)


def remove_day(root: Path) -> None:
    directory = root / "interactions" / f"date={DAYS[1]}"
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def remove_files(root: Path) -> None:
    for path in (root / "interactions" / f"date={DAYS[1]}").iterdir():
        path.unlink()


def empty_file(root: Path) -> None:
    spoil_day(root, lambda columns: columns.update({name: [] for name in columns}))


def late_rows(root: Path) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        columns["event_time"][:30] = [time - timedelta(days=1) for time in columns["event_time"][:30]]

    spoil_day(root, change)


def set_values(column: str, values: list[Any]) -> Callable[[Path], None]:
    return lambda root: spoil_day(root, lambda columns: columns[column].__setitem__(slice(len(values)), values))


@pytest.mark.parametrize(
    ("spoil", "failed", "line"),
    [
        pytest.param(remove_day, ["day_present"], f"day_present: {DAYS[1]} (allowed: all)", id="missing day"),
        pytest.param(remove_files, ["rows_per_day"], f"rows_per_day: {DAYS[1]} 0 (", id="partition without files"),
        pytest.param(empty_file, ["rows_per_day"], f"rows_per_day: {DAYS[1]} 0 (", id="empty day"),
        pytest.param(
            lambda root: spoil_day(root, lambda c: None, rows=40), ["rows_per_day", "task_change"], "40", id="small day"
        ),
        pytest.param(set_values("hour", [99] * 10), ["quarantine_budget"], "whole window 0.01667", id="budget"),
        pytest.param(set_values("label", [1] * ROWS), ["label_rate_by_day"], f"{DAYS[1]} 1 (", id="label rate"),
        pytest.param(
            set_values("price", [None] * 50), ["nulls:price"], f"nulls:price: {DAYS[1]} 0.25 (allowed: at", id="nulls"
        ),
        pytest.param(
            set_values("row", [1, 1, 1]), ["duplicates"], f"duplicates: {DAYS[1]} 0.01 (allowed: at", id="duplicates"
        ),
        pytest.param(late_rows, ["late_rows"], f"late_rows: {DAYS[1]} 0.15 (allowed: at", id="late"),
        pytest.param(
            lambda root: spoil_day(root, lambda c: c["member_id"].__setitem__(slice(None), [5] * ROWS)),
            ["task_change"],
            "task_change",
            id="tasks vanish",
        ),
    ],
)
def test_each_rule_fails_on_its_own(
    tmp_path: Path, spoil: Callable[[Path], None], failed: list[str], line: str
) -> None:
    root = write_clean(tmp_path / "data")
    spoil(root)
    application = make_application(minimum_rows_per_day=100, label_rate=[0.01, 0.6])
    with pytest.raises(DataError) as caught:
        validate(str(root), str(tmp_path / "out"), application, WINDOW)
    result = json.loads((tmp_path / "out" / RESULT).read_text())
    assert [rule["name"] for rule in result["rules"] if not rule["passed"]] == failed
    assert line in str(caught.value)
    assert result["counts"]["kept"] + result["counts"]["quarantined"] == result["counts"]["rows"]


def test_all_failed_rules_are_told_at_once(tmp_path: Path) -> None:
    root = write_clean(tmp_path / "data")
    set_values("price", [None] * 100)(root)
    day = day_columns(DAYS[2])
    day["label"] = [0] * ROWS
    for part in ("part-0", "part-1"):
        (root / "interactions" / f"date={DAYS[2]}" / f"{part}.parquet").unlink()
    write_day(root, DAYS[2], day)
    with pytest.raises(DataError, match="3 of 10 validation rules failed") as caught:
        validate(str(root), str(tmp_path / "out"), make_application(label_rate=[0.2, 0.9]), WINDOW)
    assert [line.split(": ")[0].strip() for line in str(caught.value).splitlines()[1:-1]] == [
        "label_rate",
        "label_rate_by_day",
        "nulls:price",
    ]


def days(**figures: list[Any]) -> list[DayProfile]:
    """Profiles of three good days of 10,000 rows, but for the figures given by day."""
    good = {"files": 1, "rows": 10_000, "labelled": 10_000, "positives": 2_000, "tasks": 1_000}
    return [
        DayProfile(
            day=day,
            **{**good, **{name: values[n] for name, values in figures.items()}},
            columns={"price": ColumnProfile(rows=10_000)},
        )
        for n, day in enumerate(DAYS)
    ]


def failed_rules(profiles: list[DayProfile], **validation: Any) -> dict[str, list[str]]:
    results = judge(make_application(**validation), profiles, [], {})
    return {rule.name: [place.split()[0] for place in rule.failures] for rule in results if not rule.passed}


def test_limits_are_inclusive_and_each_day_is_judged_by_itself() -> None:
    assert failed_rules(days()) == {}
    assert failed_rules(days(duplicates=[0, 10, 0])) == {}
    assert failed_rules(days(duplicates=[0, 10, 11])) == {"duplicates": [str(DAYS[2])]}
    assert failed_rules(days(late=[500, 501, 0])) == {"late_rows": [str(DAYS[1])]}
    assert failed_rules(days(tasks=[1_000, 1_500, 749])) == {"task_change": [str(DAYS[2])]}
    assert failed_rules(days(tasks=[1_000, 500, 1_001])) == {"task_change": [str(DAYS[2])]}


def test_a_small_day_gets_the_benefit_of_doubt_on_its_label_rate() -> None:
    """No click in 50 rows is chance at a rate of 1 %, none in 5,000 is not."""
    limits = {"label_rate": [0.01, 0.5]}
    small = days(labelled=[10_000, 50, 10_000], positives=[2_000, 0, 2_000])
    assert failed_rules(small, **limits) == {}
    large = days(labelled=[10_000, 5_000, 10_000], positives=[2_000, 0, 2_000])
    assert failed_rules(large, **limits) == {"label_rate_by_day": [str(DAYS[1])]}
    small = days(labelled=[10_000, 5, 10_000], positives=[2_000, 5, 2_000])
    assert failed_rules(small, **limits) == {}
    large = days(labelled=[10_000, 100, 10_000], positives=[2_000, 100, 2_000])
    assert failed_rules(large, **limits) == {"label_rate_by_day": [str(DAYS[1])]}


def test_the_whole_window_gets_no_doubt() -> None:
    assert failed_rules(days(labelled=[10] * 3, positives=[0] * 3)) == {"label_rate": ["whole"]}


def test_a_file_without_rows_does_no_harm(tmp_path: Path) -> None:
    root = write_clean(tmp_path / "data")
    nothing: dict[str, list[Any]] = {name: [] for name in day_columns(DAYS[0])}
    for day in DAYS[:2]:
        write_day(root, day, nothing, part="a-part")
        write_day(root, day, nothing, part="z-part")
    manifest = validate(str(root), str(tmp_path / "out"), make_application(), WINDOW)
    assert manifest.counts["kept"] == 3 * ROWS
    assert len(manifest.files) == 6
