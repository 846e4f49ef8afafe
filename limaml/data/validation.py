"""Validate a window of interactions: which rows may be learned from, and whether the window may be used at all.

Bad rows go to quarantine with a reason; a window that breaks a rule of its own (a missing day, too many bad rows, a
label rate out of bounds, …) is refused. A refused window is written too, with `passed: false`, so that its page says
what is wrong; nothing downstream accepts it.
"""

import json
import logging
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from limaml import storage
from limaml.config import Application
from limaml.console import progress
from limaml.data.expectations import RuleResult, judge
from limaml.data.layout import day_folder
from limaml.data.partitions import (
    Footer,
    SourceFile,
    check_schemas,
    list_window,
    missing_days,
    read_footer,
)
from limaml.data.profile import BadRows, DayProfile, engine, profile_day
from limaml.data.quarantine import Example, open_quarantine, reference, split_file
from limaml.data.row_rules import RowRule, row_rules
from limaml.errors import DataError
from limaml.manifest import FileEntry, Manifest
from limaml.stage import Stage
from limaml.windows import Window

PAGE = "validation.html"
RESULT = "result.json"
_DAY_FIGURES = (
    "files",
    "rows",
    "kept",
    "quarantined",
    "labelled",
    "positives",
    "late",
    "future",
    "duplicates",
    "tasks",
)
_COLUMN_FIGURES = ("nulls", "not_finite", "minimum", "mean", "maximum")

log = logging.getLogger(__name__)


@dataclass
class Findings:
    """What validation found in a window."""

    days: list[DayProfile] = field(default_factory=list)
    rules: list[RuleResult] = field(default_factory=list)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the window may be used."""
        return all(rule.passed for rule in self.rules)

    @property
    def counts(self) -> dict[str, int]:
        """Rows in, rows kept, rows quarantined."""
        return {
            "rows": sum(day.rows for day in self.days),
            "kept": sum(day.kept for day in self.days),
            "quarantined": sum(day.quarantined for day in self.days),
        }


def validate(data: str, output: str, application: Application, window: Window) -> Manifest:
    """Validate the interactions of a window below a data root.

    Args:
        data: URI of the folder that holds `interactions/date=YYYY-MM-DD/*.parquet`.
        output: URI of the directory to write.
        application: its sections `task`, `data`, `features` and `validation` are read.
        window: logical days; the partitions of these days are read, each as one logical day.

    Returns:
        The manifest: its files are the kept rows, the source files themselves where none of their rows was quarantined.
        `details["days"][date]` gives each day's rows, kept and quarantined counts and the paths of its files.

    Raises:
        DataError: there is no data for the window, a file or a column is broken (nothing is written), or a rule failed
            (the output is written, with `details["passed"]` false; a rerun raises again).
    """
    files = list_window(data, window)
    stage = Stage(
        "validated",
        output,
        application,
        sections=("task", "also", "data", "features", "validation"),
        inputs={
            "data": storage.normalize(data),
            "window": window.model_dump(mode="json"),
            "partitions": [str(day) for day in sorted(set(window.days) - set(missing_days(data, window)))],
            "files": [(file.name, file.bytes, file.mtime_ns) for day in window.days for file in files[day]],
        },
    )

    def build(directory: Path) -> Manifest:
        manifest = _build(stage, data, directory, window, files)
        if list_window(data, window) != files:
            raise DataError(f"{data}: files of the window changed while they were validated; run again")
        return manifest

    manifest = stage.run(build)
    if not manifest.details["passed"]:
        raise DataError(_refusal(manifest, stage.output, window))
    return manifest


def _refusal(manifest: Manifest, output: str, window: Window) -> str:
    rules = [RuleResult(**rule) for rule in manifest.details["rules"]]
    failed = [rule for rule in rules if not rule.passed]
    return (
        f"{manifest.application}: {len(failed)} of {len(rules)} validation rules failed for the window "
        f"[{window.start}, {window.end})\n"
        + "\n".join(f"  {rule.line}" for rule in failed)
        + f"\nread {storage.join(output, PAGE)}; mend the data, or the application's limits where the data is right"
    )


def _build(stage: Stage, data: str, directory: Path, window: Window, files: dict[date, list[SourceFile]]) -> Manifest:
    from limaml.data.validation_page import validation_page

    application = stage.application
    footers = {file: read_footer(file) for day in window.days for file in files[day]}
    schemas = check_schemas(footers, application)
    findings = Findings()
    entries: list[FileEntry] = []
    days: dict[str, dict[str, Any]] = {}
    with engine() as connection, progress() as bar:
        task = bar.add_task("validating", total=sum(footer.rows for footer in footers.values()), note="")
        for day in window.days:
            bar.update(task, note=str(day))
            profile, bad, rules = DayProfile(day=day), {}, row_rules(application, day, window.utc_offset_hours)
            if files[day]:
                profile, bad = profile_day(
                    connection,
                    files[day],
                    schemas[day],
                    application,
                    rules,
                    window.utc_offset_hours,
                    lambda rows: bar.advance(task, rows),
                )
            written = _write_day(directory, profile, files[day], footers, schemas.get(day), bad, rules, findings)
            entries += written
            days[str(day)] = {
                "rows": profile.rows,
                "kept": profile.kept,
                "quarantined": profile.quarantined,
                "files": [entry.path for entry in written],
            }
            log.info(
                "validated: %s: %s rows in, %s kept, %s quarantined",
                day,
                f"{profile.rows:,}",
                f"{profile.kept:,}",
                f"{profile.quarantined:,}",
            )
    findings.rules = judge(application, findings.days, missing_days(data, window), schemas)
    details = {
        "passed": findings.passed,
        "quarantine_budget": application.validation.quarantine_budget,
        "window": window.model_dump(mode="json"),
        "rules": [asdict(rule) for rule in findings.rules],
        "days": days,
    }
    result = {**details, "application": application.name, "counts": findings.counts, "profile": _profile(findings)}
    (directory / RESULT).write_text(json.dumps(result, indent=2) + "\n")
    (directory / PAGE).write_text(validation_page(application, window, findings).html())
    return stage.manifest(files=entries, counts=findings.counts, details=details)


def _write_day(
    directory: Path,
    profile: DayProfile,
    files: list[SourceFile],
    footers: dict[SourceFile, Footer],
    schema: pa.Schema | None,
    bad: dict[SourceFile, BadRows],
    rules: list[RowRule],
    findings: Findings,
) -> list[FileEntry]:
    """Write a day's quarantine and rewritten files; the entries of its kept rows."""
    findings.days.append(profile)
    entries = []
    with ExitStack() as stack:
        quarantine = None
        if bad and schema is not None:
            path = directory / "quarantine" / f"{day_folder(profile.day)}.parquet"
            quarantine = stack.enter_context(open_quarantine(path, schema, rules))
        for file in files:
            if file not in bad or quarantine is None:
                entries += [reference(file, footers[file])] if footers[file].rows else []
                continue
            path = directory / "kept" / file.name.partition("/")[2]
            entry = split_file(file, footers[file], bad[file], quarantine, path, directory)
            entries += [entry] if entry else []
    for name, examples in (quarantine.examples if quarantine else {}).items():
        findings.examples.setdefault(name, []).extend(examples)
    if sum(entry.rows or 0 for entry in entries) != profile.kept:
        raise DataError(f"{profile.day}: files of the day changed while they were validated; run again")
    return entries


def _profile(findings: Findings) -> list[dict[str, Any]]:
    """The profile as plain values, one entry a day."""
    return [
        {
            "day": str(day.day),
            **{name: getattr(day, name) for name in _DAY_FIGURES},
            "reasons": dict(day.reasons),
            "columns": {name: {f: getattr(c, f) for f in _COLUMN_FIGURES} for name, c in day.columns.items()},
        }
        for day in findings.days
    ]
