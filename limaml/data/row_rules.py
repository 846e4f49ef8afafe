"""What makes a row unusable, as one SQL expression that gives each row the first rule it breaks.

A row belongs to the logical day of its partition: one that happened before it is `late`, one from after it is `future`;
both are quarantined, so that every kept row lies in the day it is filed under. Late rows have an allowed share of their
own (`validation.maximum_late_ratio`) and are left out of the quarantine budget.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from limaml.config import Application, Feature
from limaml.schema import EVENT_TIME, LABEL
from limaml.windows import day_start

NULL_KEY = "null_key"
NULL_TIME = "null_time"
LATE = "out_of_partition_late"
FUTURE = "out_of_partition_future"
BAD_LABEL = "label_not_0_or_1"
NULL_ROW_ID = "null_row_id"
NOT_FINITE = "not_finite"
OUT_OF_RANGE = "out_of_range"
DUPLICATE = "duplicate"

# A double beyond float32 becomes infinite in the network.
_LARGEST = 3.4028234663852886e38


@dataclass(frozen=True)
class RowRule:
    """A row breaks the rule where the SQL condition over its columns is true; `column` is the one to look at."""

    reason: str
    column: str
    condition: str

    @property
    def name(self) -> str:
        """How a quarantined row names it: `out_of_range:hour_of_day`."""
        return f"{self.reason}:{self.column}" if self.column else self.reason


def row_rules(application: Application, day: date, utc_offset_hours: int) -> list[RowRule]:
    """The rules of one day's rows, in order of precedence; the last, `duplicate`, is judged over the whole day."""
    data = application.data
    time = quoted(EVENT_TIME)
    keys = dict.fromkeys((*application.key_columns, data.member_column, data.item_column))
    rules = [RowRule(NULL_KEY, key, f"{quoted(key)} IS NULL") for key in keys]
    rules += [
        RowRule(NULL_TIME, EVENT_TIME, f"{time} IS NULL"),
        RowRule(LATE, EVENT_TIME, late_sql(day, utc_offset_hours)),
        RowRule(FUTURE, EVENT_TIME, future_sql(day, utc_offset_hours)),
        RowRule(BAD_LABEL, LABEL, f"{quoted(LABEL)} IS NULL OR {quoted(LABEL)} NOT IN (0, 1)"),
    ]
    if data.row_id_column:
        rules.append(RowRule(NULL_ROW_ID, data.row_id_column, f"{quoted(data.row_id_column)} IS NULL"))
    for feature in application.features.all:
        if feature.kind == "numeric":
            rules += _feature_rules(feature)
    return [*rules, RowRule(DUPLICATE, data.row_id_column or "", "false")]


def _feature_rules(feature: Feature) -> list[RowRule]:
    rules = [RowRule(NOT_FINITE, feature.name, f"NOT ({finite_sql(feature.name)})")]
    # Compared as float32, which is what the network sees: 0.1 stored as float32 is not above a maximum of 0.1.
    value = f"TRY_CAST({quoted(feature.name)} AS FLOAT)"
    outside = []
    if feature.minimum is not None:
        outside.append(f"{value} < CAST({feature.minimum!r} AS FLOAT)")
    if feature.maximum is not None:
        outside.append(f"{value} > CAST({feature.maximum!r} AS FLOAT)")
    if outside:
        rules.append(RowRule(OUT_OF_RANGE, feature.name, " OR ".join(outside)))
    return rules


def reason_sql(rules: list[RowRule]) -> str:
    """One expression over a row: 0 where it is clean, else 1 + the index of the first rule it breaks."""
    cases = " ".join(f"WHEN {rule.condition} THEN {code}" for code, rule in enumerate(rules, start=1))
    return f"CAST(CASE {cases} ELSE 0 END AS USMALLINT)"


def finite_sql(column: str) -> str:
    """True where a number is one in float32 too; null where it is null. (NaN is above every number in DuckDB.)"""
    return f"abs(CAST({quoted(column)} AS DOUBLE)) <= {_LARGEST!r}"


def late_sql(day: date, utc_offset_hours: int) -> str:
    """True where a row happened before its partition's logical day."""
    return f"{quoted(EVENT_TIME)} < {_instant(day, utc_offset_hours)}"


def future_sql(day: date, utc_offset_hours: int) -> str:
    """True where a row claims a time after its partition's logical day."""
    return f"{quoted(EVENT_TIME)} >= {_instant(day + timedelta(days=1), utc_offset_hours)}"


def _instant(day: date, utc_offset_hours: int) -> str:
    return f"TIMESTAMPTZ '{day_start(day, utc_offset_hours):%Y-%m-%d %H:%M:%S}+00'"


def quoted(column: str) -> str:
    """An SQL identifier."""
    return '"' + column.replace('"', '""') + '"'
