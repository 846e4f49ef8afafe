"""One run of a pipeline on this machine, for one application and logical date, alone in its workspace on that date."""

import logging
import uuid
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from components.outcome import read_outcome, unfinished
from limaml import lease, storage
from limaml.config import Application
from limaml.data.layout import days_of
from limaml.errors import ConfigError, LeaseHeld, LimamlError
from limaml.windows import parse_dates, resolve_run_date
from limaml.workspace import Workspace
from pipelines.local import run_pipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """What a run has to say: plain figures for `--json`, and the error that ended it, if any."""

    result: dict[str, Any]
    error: LimamlError | None = None


def run_train(application: Application, workspace: str, data: str, run_date: date | None = None) -> Finished:
    """Validate, group, train θ, gate, publish.

    Raises:
        ConfigError, DataError: before the first step; what ends a step is in the result.
        LeaseHeld: another run holds the date.
    """
    return _run_dated("train", application, workspace, data, run_date)


def run_refresh(application: Application, workspace: str, data: str, run_date: date | None = None) -> Finished:
    """Validate, group, generate with the champion's θ, publish, monitor.

    Raises:
        ConfigError, DataError: before the first step; what ends a step is in the result.
        LeaseHeld: another run holds the date.
    """
    return _run_dated("refresh", application, workspace, data, run_date)


def run_ab_report(
    application: Application,
    workspace: str,
    exposures: str,
    visits: str,
    signups: str,
    start: date,
    end: date,
    outcomes: str = "",
    test: str = "",
) -> Finished:
    """Analyze an A/B test over the logical days [start, end); see `limaml.experiment.analysis.analyze`.

    Raises:
        ConfigError: before the first step; what ends a step is in the result.
        LeaseHeld: another run analyzes a test that ends on this day.
    """
    if start >= end:
        raise ConfigError(f"an A/B test needs its start before its end, got {start} and {end}")
    arguments = {
        "exposures": storage.normalize(exposures),
        "visits": storage.normalize(visits),
        "signups": storage.normalize(signups),
        "start": start.isoformat(),
        "end": end.isoformat(),
        "outcomes": storage.normalize(outcomes) if outcomes else "",
        "test": test,
    }
    return _run("ab_report", application, workspace, end, arguments)


def run_monitor(application: Application, workspace: str) -> Finished:
    """Look at the current release as it is now.

    Raises:
        LeaseHeld: another run is looking.
    """
    today = resolve_run_date("", application.windows.utc_offset_hours)
    return _run("monitor", application, workspace, today, {"run_date": today.isoformat()})


def run_backfill(application: Application, workspace: str, data: str, first: date, last: date) -> Finished:
    """Refresh the dates from `first` to `last` that have not been refreshed, the oldest first.

    Raises:
        ConfigError, DataError: before the first date; what ends a step is in the result.
        LeaseHeld: another run holds one of the dates.
    """
    dates = parse_dates(first.isoformat(), last.isoformat(), application.windows.utc_offset_hours)
    place = Workspace(storage.normalize(workspace), application.name)
    todo = unfinished(place, "refresh", dates)
    arguments = {"data": bring_in(data, application, workspace)}
    arguments |= {"first_date": first.isoformat(), "last_date": last.isoformat()}
    run_id, error = _start("backfill", application, place, arguments)
    days = [written for day in todo if (written := _written(place, day, "refresh", run_id))]
    result = {"application": application.name, "run": "backfill", "first_date": first, "last_date": last}
    pages = [page for day in days for page in day["pages"]]
    return Finished(result | {"finished_before": len(dates) - len(todo), "dates": days, "pages": pages}, error)


def _run_dated(kind: str, application: Application, workspace: str, data: str, run_date: date | None) -> Finished:
    root = bring_in(data, application, workspace)
    if run_date is None:
        run_date = day_after_newest(root)
        log.info("run date: %s, the day after the newest interactions of %s", run_date, root)
    return _run(kind, application, workspace, run_date, {"data": root, "run_date": run_date.isoformat()})


def _run(kind: str, application: Application, workspace: str, run_date: date, arguments: dict[str, str]) -> Finished:
    place = Workspace(storage.normalize(workspace), application.name)
    log.info("run %s of %s for %s in %s", kind, application.name, run_date, place.root)
    run_id, error = _start(kind, application, place, arguments)
    if written := _written(place, run_date, kind, run_id):
        return Finished(written, error)
    # Not even the closing step could write: what the run would say is only that.
    raise error or LimamlError(f"the run ended, but {place.run(run_date, kind)} does not say how")


def _start(
    kind: str, application: Application, place: Workspace, arguments: dict[str, str]
) -> tuple[str, LimamlError | None]:
    """Run a pipeline; its id, and the error that ended it, if any."""
    from pipelines.compile import define

    run_id = uuid.uuid4().hex
    error = run_pipeline(define(kind, application, workspace=place.root, run_id=run_id), arguments)
    if isinstance(error, LeaseHeld):
        raise error
    return run_id, error


def _written(place: Workspace, run_date: date, kind: str, run_id: str) -> dict[str, Any] | None:
    """What this very run says of a date; None where it left nothing."""
    written = read_outcome(place, run_date, kind)
    return written[0] if written is not None and written[1]["run_id"] == run_id else None


def bring_in(data: str, application: Application, workspace: str) -> str:
    """The data root behind `--data`: itself where it holds days of interactions, else a flat log imported first.

    Raises:
        ConfigError: there is nothing at `data`.
        DataError: the log breaks its contract.
        LeaseHeld: another run is importing.
    """
    if _days(data):
        return storage.normalize(data)
    if not storage.exists(data):
        raise ConfigError(f"--data {data}: nothing there; give a data root, a parquet file or a folder of them")
    from limaml.data.importer import import_log

    place = Workspace(storage.normalize(workspace), application.name)
    with lease.hold(f"{place.data}.lease", "limaml import"):
        import_log(storage.normalize(data), place.data, application)
    return place.data


def day_after_newest(data: str) -> date:
    """The day after the newest day of interactions: the run date a finished log asks for."""
    days = _days(data)
    if not days:
        raise ConfigError(f"{data}: no interactions/date=YYYY-MM-DD, so --date must be given")
    return date.fromisoformat(days[-1]) + timedelta(days=1)


def _days(data: str) -> list[str]:
    uri = storage.normalize(data)
    if storage.is_local(uri) and Path(storage.local_path(uri)).is_file():
        return []
    return days_of(uri)
