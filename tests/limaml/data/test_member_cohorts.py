"""Cohorts of tasks against a loop over members."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml.cohorts import ACTIVE, DORMANT, NEW, OTHER
from limaml.config import Application
from limaml.data.member_cohorts import cohorts_of_tasks
from limaml.schema import TIMESTAMP

BEFORE = datetime(2026, 3, 1, tzinfo=UTC)


def test_cohorts_follow_the_last_visit_and_sign_up_before_the_moment(application: Application, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    signup = [BEFORE - timedelta(days=int(d)) for d in random.integers(-5, 90, 80)]
    visits = [(int(m), BEFORE - timedelta(days=float(d))) for m, d in zip(
        random.integers(0, 60, 150), random.uniform(-10, 80, 150), strict=True)]  # fmt: skip
    for name, table in {
        "signups": pa.table({"member_id": range(80), "signup_time": pa.array(signup, TIMESTAMP)}),
        "visits": pa.table(
            {"member_id": [m for m, _ in visits], "visit_time": pa.array([t for _, t in visits], TIMESTAMP)}
        ),
    }.items():
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "part-000.parquet")
    expected = []
    for member in range(80):
        last = max((t for m, t in visits if m == member and t < BEFORE), default=None)
        if BEFORE - timedelta(weeks=4) <= signup[member] < BEFORE:
            expected.append(NEW)
        elif last is None:
            expected.append(OTHER)
        else:
            expected.append(ACTIVE if last >= BEFORE - timedelta(weeks=4) else DORMANT)
    found = cohorts_of_tasks(application, [str(m) for m in range(80)], str(tmp_path), BEFORE)
    assert found is not None
    assert found.tolist() == expected
    assert {NEW, ACTIVE, DORMANT, OTHER} == set(expected)


def test_weeks_do_not_depend_on_the_machine_s_clock(
    application: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # New York's clocks changed on 8 March: four weeks before the 20th, counted there, is another hour.
    moment = datetime(2026, 3, 20, tzinfo=UTC)
    visit = moment - timedelta(weeks=4) + timedelta(minutes=30)
    for name, column, when in (
        ("visits", "visit_time", visit),
        ("signups", "signup_time", visit - timedelta(days=900)),
    ):
        (tmp_path / name).mkdir()
        table = pa.table({"member_id": [1], column: pa.array([when], TIMESTAMP)})
        pq.write_table(table, tmp_path / name / "part-000.parquet")
    for zone in ("America/New_York", "Asia/Shanghai"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found = cohorts_of_tasks(application, ["1"], str(tmp_path), moment)
        assert found is not None
        assert found.tolist() == [ACTIVE]
    monkeypatch.undo()
    time.tzset()


def test_tasks_that_name_no_member_have_no_cohort(application: Application, tmp_path: Path) -> None:
    other = application.model_copy(update={"data": application.data.model_copy(update={"member_column": "inviter_id"})})
    assert cohorts_of_tasks(other, ["1"], str(tmp_path), BEFORE) is None
    assert cohorts_of_tasks(application, ["1"], str(tmp_path), BEFORE) is None
