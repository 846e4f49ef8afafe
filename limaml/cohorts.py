"""The paper's member cohorts, decided once, from data before the assignment (§7).

The definitions overlap (a two-week-old member has visited in the last four weeks), so precedence is part of them:
C3 > C1 > C2 > other.
"""

from datetime import timedelta

NEW = "C3"
ACTIVE = "C1"
DORMANT = "C2"
OTHER = "other"
COHORTS = (NEW, ACTIVE, DORMANT, OTHER)

TITLES = {
    NEW: "new members (signed up in the last 4 weeks)",
    ACTIVE: "active members (visited in the last 4 weeks)",
    DORMANT: "dormant members (visited before, not in the last 4 weeks)",
    OTHER: "members without a known visit",
}

RECENT = timedelta(weeks=4)


def cohort_sql(as_of: str, signup_time: str, last_visit_time: str) -> str:
    """SQL expression giving the cohort of a member from three timestamp expressions (nulls mean unknown).

    `last_visit_time` must be the last visit before `as_of`. The expression is the single definition of the cohorts.
    """
    weeks = RECENT.days // 7
    recent = f"({as_of}) - INTERVAL {weeks} WEEK"
    return (
        f"CASE WHEN ({signup_time}) >= {recent} AND ({signup_time}) < ({as_of}) THEN '{NEW}' "
        f"WHEN ({last_visit_time}) >= {recent} THEN '{ACTIVE}' "
        f"WHEN ({last_visit_time}) IS NOT NULL THEN '{DORMANT}' ELSE '{OTHER}' END"
    )
