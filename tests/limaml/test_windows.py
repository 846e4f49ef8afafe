from datetime import UTC, date, datetime, timedelta

import pytest

from limaml.config import Windows
from limaml.errors import ConfigError
from limaml.windows import (
    MAXIMUM_DATES,
    Window,
    day_start,
    parse_dates,
    parse_window,
    refresh_split,
    resolve_run_date,
    training_splits,
    training_window,
)

AS_OF = date(2026, 1, 31)


def test_a_window_is_half_open_and_ordered() -> None:
    window = Window(start=date(2026, 1, 1), end=date(2026, 1, 3))
    assert window.days == [date(2026, 1, 1), date(2026, 1, 2)]
    assert window.name == "2026-01-01_2026-01-03"
    with pytest.raises(ValueError, match="start < end"):
        Window(start=AS_OF, end=AS_OF)


def test_a_logical_day_starts_at_its_own_midnight() -> None:
    assert day_start(AS_OF, 8) == datetime(2026, 1, 30, 16, tzinfo=UTC)
    assert day_start(AS_OF, -5) == datetime(2026, 1, 31, 5, tzinfo=UTC)
    window = Window(start=AS_OF, end=AS_OF + timedelta(days=1), utc_offset_hours=8)
    assert window.end_time - window.start_time == timedelta(days=1)


@pytest.mark.parametrize("offset", [0, 8])
def test_train_validation_and_test_are_in_temporal_order(offset: int) -> None:
    windows = Windows(train_days=7, validation_days=3, test_days=2, lookback_days=5, utc_offset_hours=offset)
    splits = training_splits(windows, AS_OF)
    train, validation, test = splits["train"], splits["validation"], splits["test"]
    assert validation.window.end == test.boundary == AS_OF - timedelta(days=2)
    assert train.boundary is None
    assert validation.boundary is not None
    assert train.window.end < validation.boundary < validation.window.end
    lookback = timedelta(days=windows.lookback_days)
    assert validation.window.start == max(train.window.start, validation.boundary - lookback)
    assert test.window.end == AS_OF
    assert (train.window.end - train.window.start).days == 7
    assert test.boundary_time == day_start(AS_OF - timedelta(days=2), offset)
    # What the gate scores was adapted on exactly what a refresh on that day would have read.
    assert test.boundary is not None
    assert test.window.start == refresh_split(windows, test.boundary).window.start
    assert {split.window.utc_offset_hours for split in splits.values()} == {offset}


def test_a_training_run_reads_from_the_earliest_split_on() -> None:
    short = Windows(train_days=2, validation_days=2, test_days=1, lookback_days=30)
    assert training_window(short, AS_OF).start == AS_OF - timedelta(days=31)
    long = Windows(train_days=60, validation_days=2, test_days=1, lookback_days=30)
    assert training_window(long, AS_OF).start == AS_OF - timedelta(days=63)


def test_a_refresh_is_all_support() -> None:
    split = refresh_split(Windows(lookback_days=3), AS_OF)
    assert split.boundary == AS_OF == split.window.end
    assert len(split.window.days) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31", AS_OF),
        (" 2026-01-31 ", AS_OF),
        ("2026-01-31T23:59:00+00:00", AS_OF),
        ("", date(2026, 2, 2)),
        ("[[ScheduledTime.2006-01-02]]", date(2026, 2, 2)),
    ],
)
def test_run_dates(text: str, expected: date) -> None:
    assert resolve_run_date(text, now=datetime(2026, 2, 2, 2, tzinfo=UTC)) == expected


@pytest.mark.parametrize(("offset", "expected"), [(-8, date(2026, 1, 30)), (0, AS_OF), (8, AS_OF), (14, AS_OF)])
def test_a_moment_belongs_to_the_logical_day_that_has_begun(offset: int, expected: date) -> None:
    moment = "2026-01-31T02:00:00Z"
    assert resolve_run_date(moment, offset) == expected
    assert resolve_run_date("", offset, now=datetime.fromisoformat(moment)) == expected
    assert day_start(expected, offset) <= datetime.fromisoformat(moment)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "31.01.2026", "2026-1-5"])
def test_a_run_date_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="neither a date"):
        resolve_run_date(text)


def test_a_range_of_dates_is_bounded_by_today_and_by_number() -> None:
    now = datetime(2026, 2, 2, 2, tzinfo=UTC)
    dates = parse_dates(" 2026-01-31", "2026-02-02 ", now=now)
    assert dates == [AS_OF, date(2026, 2, 1), date(2026, 2, 2)]
    assert parse_dates("2026-01-31", "2026-01-31", now=now) == [AS_OF]
    assert len(parse_dates("2025-11-03", "2026-02-02", now=now)) == MAXIMUM_DATES
    for first, last, said in (
        ("2026-02-01", "2026-01-31", "first date must not be after the last"),
        ("2026-02-01", "2026-02-03", "yet to come: today is 2026-02-02"),
        ("2025-11-02", "2026-02-02", "are 93 dates; give at most 92"),
        ("yesterday", "2026-02-02", "first date 'yesterday' is no date like"),
        ("2026-02-01", "", "last date '' is no date like"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_dates(first, last, now=now)
    with pytest.raises(ConfigError, match="yet to come"):
        parse_dates("2026-02-02", "2026-02-02", -8, now)


def test_a_window_of_two_texts() -> None:
    window = parse_window("2026-01-30", "2026-02-01", 8)
    assert (window.start, window.end, window.utc_offset_hours) == (date(2026, 1, 30), date(2026, 2, 1), 8)
    with pytest.raises(ConfigError, match="start must be before end"):
        parse_window("2026-01-31", "2026-01-31")
    with pytest.raises(ConfigError, match=r"end .31\.1\.. is no date"):
        parse_window("2026-01-30", "31.1.")
