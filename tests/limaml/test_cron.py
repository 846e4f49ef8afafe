"""Six-field cron: what Kubeflow takes, spelled one way, and what would mean something else than was written."""

import pytest

from limaml import cron


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("0 30 2 * * *", "0 30 2 * * *"),
        ("  0  30 2\t* * ? ", "0 30 2 * * *"),
        ("0 0 6 ? * MON-FRI", "0 0 6 * * 1-5"),
        ("0 0 6 1 jan,Jul *", "0 0 6 1 1,7 *"),
        ("00 05 02 * * sun", "0 5 2 * * 0"),
        ("0 5/15 * * * *", "0 5/15 * * * *"),
        ("0 0 8-20/2 * * *", "0 0 8-20/2 * * *"),
        ("*/30 * * * * *", "*/30 * * * * *"),
        ("0 0 0 29 2 *", "0 0 0 29 2 *"),
        ("0 0 0 31 2 MON", "0 0 0 31 2 1"),
        ("@daily", "0 0 0 * * *"),
        ("@Hourly", "0 0 * * * *"),
        ("@weekly", "0 0 0 * * 0"),
    ],
)
def test_one_spelling_for_the_same_times(text: str, normalized: str) -> None:
    assert cron.normalize(text) == normalized
    assert cron.normalize(normalized) == normalized


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("30 2 * * *", r"has 5 fields, Kubeflow's has six, seconds first"),
        ("0 0 30 2 * * *", r"has 7 fields"),
        ("", r"has 0 fields"),
        ("@fortnightly", r"has 1 fields"),
        ("@every 1h", r"counts from when it is applied"),
        ("TZ=Europe/Berlin 0 30 2 * * *", r"times are UTC"),
        ("60 0 0 * * *", r"'60' is no second; give \*, 0–59"),
        ("0 0 24 * * *", r"'24' is no hour"),
        ("0 0 0 0 * *", r"'0' is no day; give \*, 1–31"),
        ("0 0 0 * 13 *", r"'13' is no month; give \*, 1–12 or JAN, FEB"),
        ("0 0 0 * * 7", r"'7' is no weekday; give \*, 0–6 or SUN, MON"),
        ("0 0 0 * MON *", r"'MON' is no month"),
        ("0 0 22-4 * * *", r"'22-4' is no hour"),
        ("0 0 0 * * FRI-MON", r"'FRI-MON' is no weekday"),
        ("0 0 1-2-3 * * *", r"'1-2-3' is no hour"),
        ("0 0 1,,2 * * *", r"'' is no hour"),
        ("0 0 -1 * * *", r"'-1' is no hour"),
        ("0 0 ² * * *", r"'²' is no hour"),
        ("0 0 0 L * *", r"'L' is no day"),
        ("0 0 0 15W * *", r"'15W' is no day"),
        ("0 0 0 * * 5#3", r"'5#3' is no weekday"),
        ("0 */0 * * * *", r"takes every 0 minutes; give a step from 1 to 59"),
        ("0 */90 * * * *", r"takes every 90 minutes"),
        ("0 */ * * * *", r"takes every \? minutes"),
        ("0 0 0 30 2 *", r"never comes"),
        ("0 0 0 31 4,6 *", r"never comes"),
    ],
)
def test_what_is_refused_and_why(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cron.normalize(text)


def test_its_values() -> None:
    seconds, minutes, hours, days, months, weekdays = cron.values(cron.normalize("0 5/20 8-12/2 1,15 * MON-FRI"))
    assert (seconds, minutes, hours, days) == ({0}, {5, 25, 45}, {8, 10, 12}, {1, 15})
    assert (months, weekdays) == (frozenset(range(1, 13)), frozenset(range(1, 6)))
