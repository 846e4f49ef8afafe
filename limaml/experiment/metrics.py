"""From logs to integer sums over members: one DuckDB query, the same result for any partitioning and thread count.

The unit is the member, who was randomised. Each metric is a ratio of two member totals, CTR = clicks / impressions and
WAU = active weeks / weeks, so that six integers per population hold everything the delta method needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow.dataset as ds

from limaml.cohorts import cohort_sql
from limaml.errors import DataError
from limaml.experiment.assignment import ARMS, TREATMENT
from limaml.windows import Window

CTR = "ctr"
WAU = "wau"
METRICS = (CTR, WAU)
EVERYONE = "all"

_LIMITS: dict[str, Any] = {"memory_limit": "1GB", "max_temp_directory_size": "20GB"}
_INSIDE = (
    "SELECT * FROM exposures, bounds WHERE event_time >= first_time AND event_time < end_time AND experiment = test"
)
# What was shown, once, however often it was answered or delivered.
_SHOWN = """
SELECT DISTINCT ON (request_id, item_id) exposed.* REPLACE (outcome.label AS label)
FROM exposed JOIN (
    SELECT request_id::VARCHAR AS request, item_id::VARCHAR AS item, max(label) AS label FROM outcomes GROUP BY ALL
) outcome ON request_id::VARCHAR = request AND item_id::VARCHAR = item
ORDER BY request_id, item_id, event_time
"""


@dataclass(frozen=True)
class Sums:
    """Sums over the members of one population of a ratio's numerator x and denominator y; exact integers."""

    members: int
    x: int
    y: int
    xx: int
    yy: int
    xy: int


@dataclass(frozen=True)
class Measured:
    """Everything a report is made of.

    `sums[cohort, arm, metric]`: cohort is one of the paper's or `all`. `reasons`: impressions of the treatment arm by
    reason code. `in_both_arms`: members who were served both variants. `weeks`: periods WAU counts; `week_days`: days
    of one, 7 unless the experiment was shorter.
    """

    sums: Mapping[tuple[str, str, str], Sums]
    impressions: int
    in_both_arms: int
    reasons: Mapping[str, int]
    weeks: int
    week_days: int


def measure(
    exposures: ds.Dataset,
    visits: ds.Dataset,
    signups: ds.Dataset,
    window: Window,
    experiment: str,
    outcomes: ds.Dataset | None = None,
) -> Measured:
    """Aggregate an experiment's logs.

    With `outcomes` an exposure counts where they say that its item was shown, and has their label.

    A member is in the experiment from being exposed inside the window; the cohort is frozen at its start, from visits
    and sign-ups before it. A trailing part of a week does not count for WAU; an experiment shorter than a week is one
    period.

    Raises:
        DataError: no exposure inside the window, an unknown variant, a missing or impossible outcome, duplicates.
    """
    days = len(window.days)
    weeks, week_days = (days // 7, 7) if days >= 7 else (1, days)
    with (
        TemporaryDirectory(prefix="limaml-") as spill,
        duckdb.connect(":memory:", config=_LIMITS | {"temp_directory": spill}) as connection,
    ):
        # Not in the configuration: a time zone needs the bundled ICU extension, which is loaded after connecting.
        connection.execute("SET TimeZone = 'UTC'")
        for name, dataset in (("exposures", exposures), ("visits", visits), ("signups", signups)):
            connection.register(name, dataset)
        bounds = {"start": window.start_time, "end": window.end_time, "test": experiment}
        connection.execute(
            "CREATE TEMP TABLE bounds AS SELECT $start AS first_time, $end AS end_time, $test AS test", bounds
        )
        connection.execute(f"CREATE TEMP VIEW {'inside' if outcomes is None else 'exposed'} AS {_INSIDE}")
        if outcomes is not None:
            connection.register("outcomes", outcomes)
            connection.execute(f"CREATE TEMP TABLE inside AS {_SHOWN}")
        impressions = _check(connection, window, experiment)
        week = int(timedelta(days=week_days) / timedelta(microseconds=1))
        connection.execute(_MEMBERS, {"weeks": weeks, "week": week})
        rows = connection.execute(_SUMS).fetchall()
        (both,) = _row(connection.execute("SELECT count(*) FROM members WHERE arms > 1"))
        reasons = connection.execute(
            "SELECT reason, count(*) FROM inside WHERE variant = ? GROUP BY reason ORDER BY reason", [TREATMENT]
        ).fetchall()
    sums: dict[tuple[str, str, str], Sums] = {}
    for arm, cohort, members, clicks, shown, clicks2, shown2, product, active, active2 in rows:
        key = (cohort or EVERYONE, arm)
        sums[(*key, CTR)] = Sums(members, clicks, shown, clicks2, shown2, product)
        sums[(*key, WAU)] = Sums(members, active, members * weeks, active2, members * weeks * weeks, active * weeks)
    return Measured(sums, impressions, both, dict(reasons), weeks, week_days)


def _check(connection: Any, window: Window, experiment: str) -> int:
    """Impressions inside the window, after the log has shown that it keeps its contract."""
    rows, outcomes, variants, distinct = _row(
        connection.execute(
            "SELECT count(*), count(*) FILTER (label IN (0, 1)), "
            f"list(DISTINCT variant ORDER BY variant) FILTER (variant IS NULL OR variant NOT IN {ARMS}), "
            "count(DISTINCT hash(request_id, item_id)) FROM inside"
        )
    )
    if not rows:
        raise DataError(
            f"exposures: none of test {experiment!r} with event_time from {window.start_time} to {window.end_time}; "
            "check the window, the test's name, and that outcomes name what was shown"
        )
    if variants:
        raise DataError(f"exposures: column 'variant' holds {variants[0]!r}; an exposure is of {' or '.join(ARMS)}")
    if outcomes < rows:
        raise DataError(
            f"exposures: column 'label' is neither 0 nor 1 in {rows - outcomes:,} of {rows:,} rows; "
            "give the outcomes as well"
        )
    if distinct < rows:
        raise DataError(
            f"exposures: {rows - distinct:,} of {rows:,} rows repeat a (request_id, item_id); an exposure counts once"
        )
    return rows


def _row(cursor: Any) -> Any:
    row = cursor.fetchone()
    assert row is not None  # an aggregate without GROUP BY always has its one row
    return row


# A member served both variants is counted in the first by name; such an experiment shows no lift anyway.
_MEMBERS = f"""
CREATE TEMP TABLE members AS
WITH exposed AS (
    SELECT member_id, min(variant) AS arm, count(DISTINCT variant) AS arms,
        count(*)::HUGEINT AS impressions, sum(label)::HUGEINT AS clicks
    FROM inside GROUP BY member_id
), visited AS (
    SELECT member_id,
        max(visit_time) FILTER (visit_time < first_time) AS last_visit,
        count(DISTINCT (epoch_us(visit_time) - epoch_us(first_time)) // $week) FILTER (
            visit_time >= first_time AND epoch_us(visit_time) < epoch_us(first_time) + $weeks * $week
        )::HUGEINT AS active
    FROM visits, bounds WHERE visit_time < end_time GROUP BY member_id
), joined AS (
    SELECT member_id, min(signup_time) AS signup FROM signups GROUP BY member_id
)
SELECT arm, arms, impressions, clicks, coalesce(active, 0) AS active,
    {cohort_sql("first_time", "signup", "last_visit")} AS cohort
FROM exposed LEFT JOIN visited USING (member_id) LEFT JOIN joined USING (member_id), bounds
"""

_SUMS = """
SELECT arm, cohort, count(*), sum(clicks), sum(impressions),
    sum(clicks * clicks), sum(impressions * impressions), sum(clicks * impressions), sum(active), sum(active * active)
FROM members GROUP BY GROUPING SETS ((arm), (arm, cohort))
"""
