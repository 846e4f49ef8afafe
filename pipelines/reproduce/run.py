"""Run a table over several seeds, and write it as JSON and Markdown into the workspace."""

import json
import logging
from dataclasses import asdict
from datetime import date
from typing import Any

from limaml import lease, storage
from limaml.config import Application
from limaml.console import progress
from limaml.errors import ConfigError
from limaml.training.evaluation import LIMAML
from limaml.workspace import Workspace
from pipelines.reproduce.logs import Log, World, logs
from pipelines.reproduce.page import markdown
from pipelines.reproduce.summary import CONFIDENCE, Comparison, Interval, Row, Seeds
from pipelines.reproduce.tables import TABLES, Measured, Table

log = logging.getLogger(__name__)


def reproduce(
    name: str,
    application: Application,
    workspace: str,
    data: str = "",
    seeds: int = 5,
    world: World | None = None,
    run_date: date | None = None,
) -> dict[str, Any]:
    """Measure a table `seeds` times; returns it, and writes it as JSON and Markdown into the workspace.

    With `data`, a flat log or a data root, seeds differ in training alone; without, each is a simulated world of its
    own. What a killed run has finished is not made again.

    Raises:
        ConfigError: no such table, no seeds, nothing at `data`, or an application that can't be simulated.
        DataError: the log breaks its contract, or a split has no rows.
        LeaseHeld: another table is being measured in this workspace for this application.
    """
    if name not in TABLES:
        raise ConfigError(f"no table {name!r}: one of {', '.join(TABLES)}")
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: at least 1, and 2 for intervals")
    table = TABLES[name]
    if not data:
        application = table.prepare(application)
    place = Workspace(storage.normalize(workspace), application.name)
    with lease.hold(storage.join(place.root, f"{application.name}.reproduce.lease"), f"limaml reproduce {name}"):
        measured, last = [], None
        with progress() as bar:
            shown = bar.add_task(name, total=seeds, note="")
            for last in logs(application, workspace, data, seeds, world or World(), run_date):
                measured.append(table.measure(last, application))
                log.info("%s: seed %d of %d done", name, len(measured), seeds)
                bar.advance(shown)
        assert last is not None, "there is at least one seed"
        result = summarize(name, table, application, measured, last)
        output = storage.join(place.run(last.as_of, "reproduce"), name)
        result |= {"json": f"{output}.json", "markdown": f"{output}.md"}
        storage.write_bytes(result["markdown"], markdown(result).encode())
        storage.write_bytes(result["json"], json.dumps(result, indent=1).encode() + b"\n")
    return result


def summarize(name: str, table: Table, application: Application, measured: list[Measured], last: Log) -> dict[str, Any]:
    """A table's seeds as plain values: rows, comparisons, costs and lifts, each with intervals."""
    rows: list[Row] = []
    comparisons: list[Comparison] = []
    definitions = [Seeds(each, [one.figures[each] for one in measured]) for each in measured[0].figures]
    for position, seeds in enumerate(definitions):
        rows += seeds.rows(table.titles, table.gains[position] if position < len(table.gains) else {})
        for algorithm, over, paper in table.comparisons:
            comparisons += seeds.compare(algorithm, over, paper)
    for seeds in definitions[1:]:
        comparisons.append(seeds.against(definitions[0], LIMAML))
    costs = [
        {"algorithm": each, "over": "vanilla", "ratio": _interval([m.costs[each] for m in measured]), "paper": paper}
        for each, paper in table.costs.items()
    ]
    lifts = [
        {"cohort": cohort, "metric": metric, "lift": _interval([m.lifts.get((cohort, metric)) for m in measured])}
        for cohort, metric in dict.fromkeys(key for each in measured for key in each.lifts)
    ]
    return {
        "name": name,
        "title": table.title,
        "paper": table.paper,
        "application": application.name,
        "data": "a simulated world a seed" if last.simulated else last.data,
        "run_date": last.as_of.isoformat(),
        "seeds": len(measured),
        "confidence": CONFIDENCE,
        "table": [asdict(row) for row in rows],
        "comparisons": [asdict(comparison) for comparison in comparisons],
        "costs": costs,
        "lifts": lifts,
    }


def _interval(values: list[float | None]) -> dict[str, float | None] | None:
    interval = Interval.of(values)
    return None if interval is None else asdict(interval)
