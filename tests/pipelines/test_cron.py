"""The next time of a six-field cron, against walking through every second or day."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cron import next_time

START = datetime(2026, 1, 30, 23, 59, 58, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 30 2 * * *", "2026-01-31T02:30:00"),
        ("* * * * * *", "2026-01-30T23:59:59"),
        ("0 0 0 1 * *", "2026-02-01T00:00:00"),
        ("0 0 12 ? * 1", "2026-02-02T12:00:00"),  # a Monday
        ("0 0 12 13 * 5", "2026-02-06T12:00:00"),  # the 13th or a Friday
        ("0 0 0 29 2 *", "2028-02-29T00:00:00"),
        ("10-30/10 0 5-6 * * *", "2026-01-31T05:00:10"),
        ("0 50/5 * * * *", "2026-01-31T00:50:00"),
        ("0 0 0 31 1,3 *", "2026-01-31T00:00:00"),
        ("0 0 0 30 2 *", None),
    ],
)
def test_known_times(cron: str, expected: str | None) -> None:
    found = next_time(cron, START)
    assert (found.isoformat().removesuffix("+00:00") if found else None) == expected


def test_the_zone_of_the_question_does_not_matter() -> None:
    from datetime import timezone

    there = START.astimezone(timezone(timedelta(hours=9)))
    assert next_time("0 30 2 * * *", there) == next_time("0 30 2 * * *", START)


@settings(max_examples=30)
@given(
    st.integers(0, 86_400 * 400),
    st.sampled_from(["*", "0", "*/20", "7,21"]),
    st.sampled_from(["*", "3", "*/7", "40-59"]),
    st.sampled_from(["*", "1,5", "*/5"]),
)
def test_it_is_the_first_second_that_fits(offset: int, second: str, minute: str, hour: str) -> None:
    after = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=offset)
    found = next_time(f"{second} {minute} {hour} * * *", after)
    assert found is not None

    def fits(field: str, value: int) -> bool:
        parts = {"*": True, "*/20": value % 20 == 0, "*/7": value % 7 == 0, "*/5": value % 5 == 0}
        if field in parts:
            return parts[field]
        if "-" in field:
            low, high = map(int, field.split("-"))
            return low <= value <= high
        return value in map(int, field.split(","))

    def good(moment: datetime) -> bool:
        return fits(second, moment.second) and fits(minute, moment.minute) and fits(hour, moment.hour)

    assert good(found)
    assert found > after
    step = timedelta(seconds=1)
    assert not any(good(after + step * n) for n in range(1, min(int((found - after).total_seconds()), 1500)))
