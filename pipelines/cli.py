"""The `limaml` command, assembled at the top of the house: the library's commands, monitoring's, and its own."""

import os
from datetime import date, datetime
from importlib import import_module
from typing import Annotated

import typer

from limaml.cli import common
from limaml.cli.common import App, Json, WorkspaceUri
from pipelines.cluster_cli import finish

AREAS = (
    *(f"limaml.cli.{area}" for area in (
        "config", "simulate", "validate", "advise", "group", "train", "embed", "release", "score", "serve",
        "replay", "experiment",
    )),
    "monitoring.cli",
    "pipelines.cluster_cli",
    "pipelines.schedule_cli",
    "pipelines.backfill_cli",
    "pipelines.doctor_cli",
)  # fmt: skip

DataUri = Annotated[
    str, typer.Option("--data", help="Interactions by day (a data root), or a flat parquet log to import first.")
]
RunDate = Annotated[
    datetime | None,
    typer.Option("--date", formats=["%Y-%m-%d"], help="Logical date; none: the day after the newest interactions."),
]
Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]
Log = Annotated[str, typer.Option(help="URI of a log of the test.")]

# Libraries that would otherwise send usage statistics out, or talk over our own lines.
QUIET = {
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def build() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="LiMAML: meta-learned personalization, from interactions to a served score.",
    )
    for area in AREAS:
        import_module(area).register(app)
    runs = typer.Typer(no_args_is_help=True, help="Run a pipeline on this machine.")
    runs.command("train")(train)
    runs.command("refresh")(refresh)
    runs.command("monitor")(monitor)
    runs.command("ab-report")(ab_report)
    runs.command("history")(history)
    app.add_typer(runs, name="run")
    app.command("reproduce")(reproduce)
    app.command("demo")(demo)
    return app


def main() -> None:
    """Entry point of the console script."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    raise SystemExit(common.run(build()))


def train(app: App, data: DataUri, workspace: WorkspaceUri, run_date: RunDate = None, as_json: Json = False) -> None:
    """Train θ, judge the pair (model, embeddings), and publish it when it is promoted (exit code 4 when refused)."""
    from limaml.config import load_application
    from pipelines.run import run_train

    finish(run_train(load_application(app), workspace, data, _day(run_date)), as_json)


def refresh(app: App, data: DataUri, workspace: WorkspaceUri, run_date: RunDate = None, as_json: Json = False) -> None:
    """Generate embeddings with the champion's θ, publish them, and look for drift and staleness."""
    from limaml.config import load_application
    from pipelines.run import run_refresh

    finish(run_refresh(load_application(app), workspace, data, _day(run_date)), as_json)


def monitor(app: App, workspace: WorkspaceUri, as_json: Json = False) -> None:
    """Look at what is served now, without making anything new: age, coverage, versions, canary, drift."""
    from limaml.config import load_application
    from pipelines.run import run_monitor

    finish(run_monitor(load_application(app), workspace), as_json)


def ab_report(
    app: App,
    workspace: WorkspaceUri,
    exposures: Log,
    visits: Log,
    signups: Log,
    start: Day,
    end: Day,
    outcomes: Annotated[str, typer.Option(help="URI of what was shown and clicked, for a scorer's exposures.")] = "",
    test: Annotated[str, typer.Option(help="Name of one of the application's tests; default: the first.")] = "",
    as_json: Json = False,
) -> None:
    """Compare the arms of an A/B test over the days [start, end): CTR and weekly active users by cohort."""
    from limaml.config import load_application
    from pipelines.run import run_ab_report

    application = load_application(app)
    days = (start.date(), end.date())
    finish(run_ab_report(application, workspace, exposures, visits, signups, *days, outcomes, test), as_json)


def history(app: App, workspace: WorkspaceUri, as_json: Json = False) -> None:
    """How the last run of every kind for every date ended, here or on Kubeflow, the newest date first."""
    from components.outcome import history as read
    from limaml import storage
    from limaml.config import load_application
    from limaml.workspace import Workspace

    application = load_application(app)
    runs = read(Workspace(storage.normalize(workspace), application.name))
    if as_json:
        common.emit({"application": application.name, "runs": runs}, as_json)
        return
    common.emit({f"{each['run_date']} {each['kind']}": f"{each['state']}  {each['reason']}" for each in runs}, as_json)


def reproduce(
    app: App,
    table: Annotated[
        str,
        typer.Argument(
            help="controls, table3, table4, table5, table9, table10, table11_13, table14, ablations or refresh."
        ),
    ] = "controls",
    workspace: WorkspaceUri = ".reproduce",
    data: Annotated[
        str, typer.Option("--data", help="Your own flat log or data root, instead of a simulated world a seed.")
    ] = "",
    seeds: Annotated[int, typer.Option(help="How many times all is trained anew; intervals are over these.")] = 5,
    members: Annotated[int, typer.Option(min=1, help="Members of a simulated world.")] = 2500,
    items: Annotated[int, typer.Option(min=1, help="Items of a simulated world.")] = 2000,
    run_date: RunDate = None,
    as_json: Json = False,
) -> None:
    """One of the paper's tables, measured: every algorithm and slice with its AUC, GAUC and gains with intervals."""
    from limaml.config import load_application
    from pipelines.reproduce.logs import World
    from pipelines.reproduce.run import reproduce

    world = World(members, items)
    result = reproduce(table, load_application(app), workspace, data, seeds, world, _day(run_date))
    common.emit(result if as_json else {"table": result["markdown"]}, as_json)


def demo(
    workspace: WorkspaceUri = ".demo",
    data: Annotated[
        str, typer.Option("--data", help="Your own flat log or data root, instead of simulated ones.")
    ] = "",
    app: App = "",
    as_json: Json = False,
) -> None:
    """The whole chain, ending in one table: train, refresh, and on simulated logs two more days and an A/B test."""
    from pipelines import demo as chain

    chain.run(workspace, data, app, as_json)


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()


if __name__ == "__main__":
    main()
