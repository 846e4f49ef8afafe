"""The page that says whether a window of interactions may be used, and if not, why."""

from collections import Counter
from itertools import groupby
from typing import Any

import numpy as np

from limaml.config import Application
from limaml.data.profile import ColumnProfile, DayProfile
from limaml.data.validation import Findings
from limaml.pages import Cell, Page, Section, Table, new_figure
from limaml.windows import Window

_EXAMPLES = 3

_REASONS = {
    "null_key": "a task key, member or item is null",
    "null_time": "the time is null",
    "out_of_partition_late": "happened before the day it is filed under",
    "out_of_partition_future": "claims a time after the day it is filed under",
    "label_not_0_or_1": "the label is neither 0 nor 1",
    "null_row_id": "the row identifier is null",
    "not_finite": "NaN, infinite, or too large for a 32-bit float",
    "out_of_range": "outside the minimum and maximum of the configuration",
    "duplicate": "repeats another row, which is kept",
}


def validation_page(application: Application, window: Window, findings: Findings) -> Page:
    """The whole page; row values are shown one at a time and never those of a key."""
    counts = findings.counts
    share = counts["quarantined"] / counts["rows"] if counts["rows"] else 0.0
    failed = [rule for rule in findings.rules if not rule.passed]
    verdict = (
        f"The window may be used: all {len(findings.rules)} rules hold."
        if findings.passed
        else f"The window must not be used: {len(failed)} of {len(findings.rules)} rules failed "
        f"({', '.join(rule.name for rule in failed)})."
    )
    return Page(
        title=f"Validation of {application.name}, {window.start} to {window.days[-1]}",
        badge=Cell("passed", "good") if findings.passed else Cell("failed", "bad"),
        lead=[
            verdict,
            f"{counts['rows']:,} rows were read, {counts['kept']:,} are kept and {counts['quarantined']:,} "
            f"({share:.2%}) are in quarantine, each with its reason.",
        ],
        sections=[
            _rules_section(findings),
            _days_section(findings.days),
            _quarantine_section(findings),
            _columns_section(findings.days),
        ],
        footer=f"Application {application.title}. Days begin at midnight, UTC{window.utc_offset_hours:+d}.",
    )


def _rules_section(findings: Findings) -> Section:
    rows = [
        [
            Cell("holds", "good") if rule.passed else Cell("failed", "bad"),
            rule.name,
            rule.value,
            rule.allowed,
            rule.statement,
            ", ".join(rule.failures),
        ]
        for rule in sorted(findings.rules, key=lambda rule: rule.passed)
    ]
    return Section(title="Rules", tables=[Table(["Verdict", "Rule", "Value", "Allowed", "About", "Failed on"], rows)])


def _days_section(days: list[DayProfile]) -> Section:
    rows = [
        [
            str(day.day),
            day.files,
            f"{day.rows:,}" if day.rows else Cell("0", "bad"),
            f"{day.kept:,}",
            f"{day.quarantined:,}",
            f"{day.positives / day.labelled:.2%}" if day.labelled else "–",
            f"{day.tasks:,}",
            f"{day.duplicates:,}",
            f"{day.late:,}",
            f"{day.future:,}",
        ]
        for day in days
    ]
    headers = ["Day", "Files", "Rows", "Kept", "Quarantined", "Label rate", "Tasks", "Duplicates", "Late", "Future"]
    return Section(title="Days", figures=[_days_figure(days)], tables=[Table(headers, rows, numbers=range(1, 10))])


def _days_figure(days: list[DayProfile]) -> Any:
    figure = new_figure(height=2.6)
    axes = figure.subplots()
    at = np.arange(len(days))
    kept = [day.kept for day in days]
    axes.bar(at, kept, color="#2457c5", label="kept")
    axes.bar(at, [day.quarantined for day in days], bottom=kept, color="#b3261e", label="quarantined")
    step = -(-len(days) // 10)
    axes.set_xticks(at[::step], [f"{day.day:%d %b}" for day in days][::step])
    axes.set_ylabel("rows")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return figure


def _quarantine_section(findings: Findings) -> Section:
    totals: Counter[str] = sum((day.reasons for day in findings.days), Counter())
    if not totals:
        return Section(title="Quarantine", text=["No row was taken out."])
    reasons = [[name, f"{count:,}", _REASONS[name.partition(":")[0]]] for name, count in totals.most_common()]
    examples = [
        [name, example.file, f"{example.row:,}", example.column, example.value]
        for name, _ in totals.most_common()
        for example in findings.examples.get(name, [])[:_EXAMPLES]
    ]
    return Section(
        title="Quarantine",
        tables=[
            Table(["Reason", "Rows", "Meaning"], reasons, numbers=[1]),
            Table(["Example of", "File", "Row", "Column", "Value"], examples, numbers=[2]),
        ],
        notes=["A row is counted under the first rule it breaks. Row numbers count from 0 in the file."],
    )


def _columns_section(days: list[DayProfile]) -> Section:
    pairs = sorted(((name, c) for day in days for name, c in day.columns.items()), key=lambda pair: pair[0])
    rows = []
    for name, group in groupby(pairs, key=lambda pair: pair[0]):
        whole = ColumnProfile()
        for _, c in group:
            whole.add(c.rows, c.nulls, c.not_finite, c.minimum, c.maximum, c.total)
        bounds = [f"{v:.4g}" if v is not None else "–" for v in (whole.minimum, whole.mean, whole.maximum)]
        rows.append([name, f"{whole.null_ratio:.2%}", f"{whole.not_finite:,}", *bounds])
    headers = ["Feature", "Null", "Not finite", "Minimum", "Mean", "Maximum"]
    return Section(
        title="Features",
        tables=[Table(headers, rows, numbers=range(1, 6))],
        notes=["Over all rows read, before quarantine; bounds and mean are of the finite values."],
    )
