"""The paper's cohorts and their precedence, evaluated where they will be: in DuckDB."""

import re
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from limaml.cohorts import ACTIVE, COHORTS, DORMANT, NEW, OTHER, TITLES, cohort_sql

AS_OF = datetime(2026, 3, 29, tzinfo=UTC)
SECOND = timedelta(seconds=1)
FOUR_WEEKS = timedelta(days=28)


def cohort(signup: datetime | None, last_visit: datetime | None) -> str:
    names = ("$as_of::TIMESTAMPTZ", "$signup::TIMESTAMPTZ", "$visit::TIMESTAMPTZ")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        values = {"as_of": AS_OF, "signup": signup, "visit": last_visit}
        row = connection.execute(f"SELECT {cohort_sql(*names)}", values).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize(
    ("signup", "last_visit", "expected"),
    [
        (AS_OF - timedelta(days=14), AS_OF - timedelta(days=1), NEW),  # new and active: new wins
        (AS_OF - FOUR_WEEKS, None, NEW),
        (AS_OF - FOUR_WEEKS - SECOND, AS_OF - FOUR_WEEKS, ACTIVE),
        (AS_OF - timedelta(days=300), AS_OF - SECOND, ACTIVE),
        (AS_OF - timedelta(days=300), AS_OF - FOUR_WEEKS - SECOND, DORMANT),
        (None, AS_OF - timedelta(days=100), DORMANT),
        (AS_OF - timedelta(days=300), None, OTHER),
        (None, None, OTHER),
        (AS_OF, None, OTHER),  # signed up only after the cohorts were frozen
        (AS_OF + timedelta(days=3), AS_OF - timedelta(days=2), ACTIVE),
    ],
)
def test_precedence_and_borders(signup, last_visit, expected):
    assert cohort(signup, last_visit) == expected


def test_every_cohort_has_a_title_that_says_its_weeks():
    assert set(TITLES) == set(COHORTS)
    assert all(re.search("4 weeks", TITLES[name]) for name in (NEW, ACTIVE, DORMANT))
