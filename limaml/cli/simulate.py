"""Make a data root: from a simulated world, or from a flat log."""

from datetime import datetime
from typing import Annotated, Any

import typer

from limaml.cli.common import App, Json, emit

Output = Annotated[str, typer.Option("--output", help="The data root to write; an empty or new directory.")]


def register(app: typer.Typer) -> None:
    """Mount `simulate` and `import`."""
    app.command("simulate")(_simulate)
    app.command("import")(_import)


def _simulate(
    app: App,
    output: Output,
    members: Annotated[int, typer.Option(min=1, help="Members, some of whom sign up during the run.")] = 2500,
    days: Annotated[int, typer.Option(min=1, help="Days of interactions; visits begin eight weeks earlier.")] = 17,
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First day.")] = datetime(2026, 1, 1),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Equal seeds make equal logs.")] = 0,
    items: Annotated[int, typer.Option(min=1, help="Items, or invitees.")] = 2000,
    as_json: Json = False,
) -> None:
    """Simulate an application's logs: interactions, visits, sign-ups, and the true probabilities beside them."""
    from limaml.config import load_application
    from limaml.data.simulator import simulate
    from limaml.data.world import SimulationSpec

    spec = SimulationSpec(members=members, days=days, start=start.date(), seed=seed, items=items)
    manifest = simulate(output, load_application(app), spec)
    shown = {name: manifest.details[name] for name in ("kind", "start", "end", "label_rate", "best_auc")}
    emit(_result(output, manifest.counts, shown), as_json)


def _import(
    app: App,
    source: Annotated[str, typer.Option("--source", help="A flat parquet file, or a directory of them.")],
    output: Output,
    as_json: Json = False,
) -> None:
    """Turn a flat log into interactions by day, with the application's aggregates of the past."""
    from limaml.config import load_application
    from limaml.data.importer import import_log

    manifest = import_log(source, output, load_application(app))
    shown = {name: manifest.details[name] for name in ("start", "end", "aggregates")}
    emit(_result(output, manifest.counts, shown), as_json)


def _result(output: str, counts: dict[str, int], details: dict[str, Any]) -> dict[str, Any]:
    from limaml import storage

    return {"data": storage.normalize(output), **counts, **details}
