"""`limaml backfill`: dates that were missed, made up for here or on Kubeflow."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limaml.cli.common import App, Json, emit
from limaml.errors import ConfigError
from pipelines.cluster_cli import Data, Image, Wait, Workspace, finish, follow, on_kubeflow

if TYPE_CHECKING:
    from limaml.config import Application
    from pipelines.kubeflow import Access

First = Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First logical date.")]
Last = Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last logical date, itself included.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which dates of the range have not been refreshed.")]
Submit = Annotated[bool, typer.Option("--submit", help="On Kubeflow, by the pipeline `backfill`, instead of here.")]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("backfill")(backfill)


@on_kubeflow
def backfill(
    access: "Access",
    app: App,
    first: First,
    last: Last,
    workspace: Workspace = "",
    data: Data = "",
    dry_run: DryRun = False,
    submit: Submit = False,
    wait: Wait = False,
    image: Image = "",
    as_json: Json = False,
) -> None:
    """Refresh every date of a range that has not been, the oldest first; repeated, it goes on where it ended."""
    from limaml.config import load_application
    from limaml.windows import parse_dates

    application = load_application(app)
    dates = parse_dates(f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}", application.windows.utc_offset_hours)
    if (submit and dry_run) or (wait and not submit):
        raise ConfigError("--submit goes with --wait, and not with --dry-run")
    if submit:
        from pipelines.kubeflow import connect
        from pipelines.submit import submit as start

        given = {"first_date": dates[0].isoformat(), "last_date": dates[-1].isoformat()}
        given |= {"workspace": workspace, "data": data}
        kubeflow = connect(access)
        follow(kubeflow, application, start(kubeflow, application, "backfill", given, image=image), wait, as_json)
        return
    root = workspace or application.cluster.workspace
    if not root:
        raise ConfigError(f"application {application.name}: no workspace: give --workspace, or set cluster.workspace")
    if dry_run:
        emit(_missing(application, root, dates), as_json)
        return
    from limaml.workspace import Workspace as Place
    from pipelines.run import run_backfill

    source = data or application.cluster.data or Place(root, application.name).data
    finish(run_backfill(application, root, source, dates[0], dates[-1]), as_json)


def _missing(application: "Application", root: str, dates: list[Any]) -> dict[str, Any]:
    from components.outcome import unfinished
    from limaml import storage
    from limaml.workspace import Workspace as Place

    missing = unfinished(Place(storage.normalize(root), application.name), "refresh", dates)
    return {
        "application": application.name,
        "first_date": dates[0],
        "last_date": dates[-1],
        "missing": [day.isoformat() for day in missing],
        "finished": len(dates) - len(missing),
    }
