"""The rules a window must pass, built from the application and judged by Great Expectations.

Its suite runs over the small profile (one row a day), never over the rows: that is what keeps it fast at any size.
Each day is judged by itself, so that a broken day is not diluted by a long window; the quarantine budget and the
overall label rate are the window's. This is the only module that knows the library.
"""

import logging
import os
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from scipy.stats import beta

from limaml.config import Application
from limaml.data.partitions import required_columns
from limaml.data.profile import DayProfile

# A day fails on its label rate only where chance would not explain it: outside its exact 99.9 % interval.
_DOUBT = 0.001
_SHOWN = 5


@dataclass(frozen=True)
class RuleResult:
    """One rule's outcome in words: what was seen, what is allowed, and where it failed."""

    name: str
    statement: str
    value: str
    allowed: str
    passed: bool
    failures: list[str]

    @property
    def line(self) -> str:
        """The outcome in one line of an error message."""
        places = ", ".join(self.failures[:_SHOWN])
        more = f" and {len(self.failures) - _SHOWN} more" if len(self.failures) > _SHOWN else ""
        return f"{self.name}: {places or self.value}{more} (allowed: {self.allowed})"


@dataclass(frozen=True)
class _Rule:
    """Values of a frame's column must lie in `[low, high]`; `shown` is the column a person sees instead.

    A flag is 1 where a place is as it should be and 0 where it is not.
    """

    name: str
    statement: str
    frame: str
    column: str
    low: float | None = None
    high: float | None = None
    shown: str = ""
    kind: Literal["ratio", "count", "flag"] = "ratio"

    @property
    def allowed(self) -> str:
        if self.kind == "flag":
            return "all"
        if self.high is None:
            return f"at least {self.spell(self.low)}"
        return (
            f"at most {self.spell(self.high)}"
            if self.low is None
            else f"{self.spell(self.low)} to " + self.spell(self.high)
        )

    def spell(self, value: Any) -> str:
        if value is None or pd.isna(value):
            return "–"
        return f"{value:.4g}" if self.kind == "ratio" else f"{int(value):,}"


def judge(
    application: Application, days: list[DayProfile], missing: list[date], schemas: dict[date, pa.Schema]
) -> list[RuleResult]:
    """Every rule's outcome. `days` has a profile for every day of the window, empty for missing ones."""
    frames = {
        "window": _window_frame(days),
        "days": _days_frame(application, days, set(missing)),
        "columns": _columns_frame(application, schemas),
    }
    rules = _rules(application)
    judged = _validate(frames, rules)
    return [_result(rule, frames[rule.frame], judged[rule.name]) for rule in rules]


def _rules(application: Application) -> list[_Rule]:
    v = application.validation
    low, high = v.label_rate
    rules = [
        _Rule(
            "schema",
            "every file has every column the application reads, with a type that fits",
            "columns",
            "present",
            low=1,
            kind="flag",
        ),
        _Rule("day_present", "every day of the window has a partition", "days", "present", low=1, kind="flag"),
        _Rule("rows_per_day", "rows of each day", "days", "rows", low=v.minimum_rows_per_day, kind="count"),
        _Rule(
            "quarantine_budget",
            "share of the window's rows that break a row rule, late ones aside",
            "window",
            "quarantine_ratio",
            high=v.quarantine_budget,
        ),
        _Rule("label_rate", "share of positive labels in the window", "window", "label_rate", low=low, high=high),
        _Rule(
            "label_rate_by_day",
            "share of positive labels of each day; a day fails only beyond what chance explains (99.9 % interval)",
            "days",
            "plausible_label_rate",
            low=low,
            high=high,
            shown="label_rate",
        ),
        _Rule(
            "duplicates",
            "share of each day's rows that repeat another "
            + (f"in {application.data.row_id_column}" if application.data.row_id_column else "in all columns"),
            "days",
            "duplicate_ratio",
            high=v.maximum_duplicate_ratio,
        ),
        _Rule(
            "late_rows",
            "share of each day's rows that happened before that day",
            "days",
            "late_ratio",
            high=v.maximum_late_ratio,
        ),
        _Rule(
            "task_change",
            "change of each day's number of tasks against the day before, relative",
            "days",
            "task_change",
            high=v.maximum_task_change,
        ),
    ]
    return rules + [
        _Rule(
            f"nulls:{feature.name}",
            f"share of nulls in {feature.name} of each day",
            "days",
            f"nulls:{feature.name}",
            high=feature.maximum_null_ratio,
        )
        for feature in application.features.all
        if feature.maximum_null_ratio < 1
    ]


def _window_frame(days: list[DayProfile]) -> pd.DataFrame:
    rows, labelled = sum(d.rows for d in days), sum(d.labelled for d in days)
    return pd.DataFrame(
        {
            "place": ["whole window"],
            "quarantine_ratio": [_ratio(sum(d.over_budget for d in days), rows)],
            "label_rate": [_ratio(sum(d.positives for d in days), labelled)],
        }
    ).astype({"quarantine_ratio": float, "label_rate": float})


def _days_frame(application: Application, days: list[DayProfile], missing: set[date]) -> pd.DataFrame:
    low, high = application.validation.label_rate
    limited = [f.name for f in application.features.all if f.maximum_null_ratio < 1]
    rows = []
    for before, day in zip([None, *days], days, strict=False):
        change = abs(day.tasks - before.tasks) / before.tasks if before and before.tasks and day.tasks else None
        rows.append(
            {
                "place": str(day.day),
                "present": int(day.day not in missing),
                "rows": None if day.day in missing else day.rows,
                "label_rate": _ratio(day.positives, day.labelled),
                "plausible_label_rate": _plausible_rate(day.positives, day.labelled, low, high),
                "duplicate_ratio": _ratio(day.duplicates, day.rows),
                "late_ratio": _ratio(day.late, day.rows),
                "task_change": change,
                **{f"nulls:{n}": day.columns[n].null_ratio if n in day.columns else None for n in limited},
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({name: float for name in frame.columns if name != "place"})


def _columns_frame(application: Application, schemas: dict[date, pa.Schema]) -> pd.DataFrame:
    wanted = sorted({column for column, _ in required_columns(application)})
    present = [float(all(name in schema.names for schema in schemas.values())) for name in wanted]
    return pd.DataFrame({"place": wanted, "present": present})


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _plausible_rate(positives: int, labelled: int, low: float, high: float) -> float | None:
    """The rate nearest to the allowed ones among those that chance could have turned into the observed one."""
    if not labelled:
        return None
    negatives = labelled - positives
    least = float(beta.ppf(_DOUBT / 2, positives, negatives + 1)) if positives else 0.0
    most = float(beta.ppf(1 - _DOUBT / 2, positives + 1, negatives)) if negatives else 1.0
    return min(max(min(max(positives / labelled, low), high), least), most)


def _validate(frames: dict[str, pd.DataFrame], rules: list[_Rule]) -> dict[str, list[str] | None]:
    """Per rule the places (days, columns) it failed on, or None where it passed."""
    # Both are read while it is imported: no usage reports from a pipeline, no hundreds of lines on its registries.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )
    from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween

    # Its default configuration leaves a temporary directory behind for a documentation site nobody opens.
    settings = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context: Any = gx.get_context(mode="ephemeral", project_config=settings)
    source = context.data_sources.add_pandas("profile")
    judged: dict[str, list[str] | None] = {}
    for name in sorted({rule.frame for rule in rules}):
        suite = gx.ExpectationSuite(
            name=name,
            expectations=[
                ExpectColumnValuesToBeBetween(
                    column=rule.column, min_value=rule.low, max_value=rule.high, meta={"rule": rule.name}
                )
                for rule in rules
                if rule.frame == name
            ],
        )
        definition = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        batch = definition.get_batch({"dataframe": frames[name]})
        outcome = batch.validate(
            suite, result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["place"]}
        )
        for result in outcome.results:
            raised = result.exception_info.get("exception_message")
            if raised:
                raise RuntimeError(f"Great Expectations could not judge {result.expectation_config.meta}: {raised}")
            places = [place["place"] for place in result.result.get("unexpected_index_list") or []]
            judged[result.expectation_config.meta["rule"]] = None if result.success else places
    return judged


def _result(rule: _Rule, frame: pd.DataFrame, failed: list[str] | None) -> RuleResult:
    shown = frame.set_index("place")[rule.shown or rule.column]
    values = shown.dropna()
    least, most = (rule.spell(values.min()), rule.spell(values.max())) if len(values) else ("–", "–")
    seen = least if least == most else f"{least} to {most}"
    flag = rule.kind == "flag"
    return RuleResult(
        name=rule.name,
        statement=rule.statement,
        value=f"{values.sum():.0f} of {len(values)}" if flag else seen,
        allowed=rule.allowed,
        passed=failed is None,
        failures=[place if flag else f"{place} {rule.spell(shown[place])}" for place in failed or []],
    )
