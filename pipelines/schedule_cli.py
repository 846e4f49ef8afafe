"""`limaml schedule`: recurring runs as the application's YAML has them."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limaml.cli.common import App, Json, emit
from limaml.errors import ConfigError
from pipelines.cluster_cli import Data, Image, Workspace, on_kubeflow

if TYPE_CHECKING:
    from limaml.config import Application
    from pipelines.kubeflow import Access, Kubeflow

Register = Annotated[bool, typer.Option("--register", help="Upload every pipeline of the application as well.")]
Kinds = Annotated[
    list[str] | None, typer.Option("--kind", help="train, refresh or monitor; may be repeated; none: all three.")
]


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    group = typer.Typer(no_args_is_help=True, help="Recurring runs on Kubeflow, as the application's YAML has them.")
    group.command("apply")(apply)
    group.command("list")(list_schedules)
    group.command("pause")(pause)
    group.command("resume")(resume)
    group.command("delete")(delete)
    app.add_typer(group, name="schedule")


@on_kubeflow
def apply(
    access: "Access",
    app: App,
    register: Register = False,
    workspace: Workspace = "",
    data: Data = "",
    image: Image = "",
    as_json: Json = False,
) -> None:
    """Make Kubeflow's recurring runs what the YAML says; safe to repeat, and for two to do at once."""
    from dataclasses import asdict

    from pipelines import schedule
    from pipelines.uploads import register as upload_all

    kubeflow, application = _connect(app, access)
    done = schedule.apply(kubeflow, application, {"workspace": workspace, "data": data}, image)
    result: dict[str, Any] = {"application": application.name, "endpoint": kubeflow.endpoint, "schedules": done}
    if register:
        result["pipelines"] = [asdict(each) for each in upload_all(kubeflow, application, image)]
    _show(result, as_json, "action", "name", "waiting")


@on_kubeflow
def list_schedules(
    access: "Access",
    app: App,
    workspace: Workspace = "",
    data: Data = "",
    image: Image = "",
    as_json: Json = False,
) -> None:
    """Show whether Kubeflow agrees with the YAML, the next run and how the last one went."""
    from pipelines import schedule

    kubeflow, application = _connect(app, access)
    rows = schedule.status(kubeflow, application, {"workspace": workspace, "data": data}, image)
    result = {"application": application.name, "endpoint": kubeflow.endpoint, "schedules": rows}
    _show(result, as_json, "state", "cron", "next_run", "last_run")


@on_kubeflow
def pause(
    access: "Access",
    app: App,
    kinds: Kinds = None,
    as_json: Json = False,
) -> None:
    """Start no new runs until `resume` or the next `apply`; running ones go on."""
    from pipelines import schedule

    kubeflow, application = _connect(app, access)
    done = schedule.pause(kubeflow, application, _kinds(kinds))
    _show({"application": application.name, "endpoint": kubeflow.endpoint, "schedules": done}, as_json, "action")


@on_kubeflow
def resume(
    access: "Access",
    app: App,
    kinds: Kinds = None,
    workspace: Workspace = "",
    data: Data = "",
    image: Image = "",
    as_json: Json = False,
) -> None:
    """Let paused schedules go on; Kubeflow makes up for the newest run that was missed, and for no other."""
    from pipelines import schedule

    kubeflow, application = _connect(app, access)
    given = {"workspace": workspace, "data": data}
    done = schedule.resume(kubeflow, application, given, image, _kinds(kinds))
    _show({"application": application.name, "endpoint": kubeflow.endpoint, "schedules": done}, as_json, "action")


@on_kubeflow
def delete(
    access: "Access",
    app: App,
    kinds: Kinds = None,
    as_json: Json = False,
) -> None:
    """Remove the application's recurring runs; running runs go on."""
    from pipelines import schedule

    kubeflow, application = _connect(app, access)
    done = schedule.delete(kubeflow, application, _kinds(kinds))
    _show(
        {"application": application.name, "endpoint": kubeflow.endpoint, "schedules": done},
        as_json,
        "action",
        "waiting",
    )


def _connect(app: str, access: "Access") -> "tuple[Kubeflow, Application]":
    from limaml.config import load_application
    from pipelines.kubeflow import connect

    application = load_application(app)
    return connect(access), application


def _kinds(given: list[str] | None) -> tuple[str, ...]:
    from pipelines.schedule import KINDS

    if unknown := [kind for kind in given or () if kind not in KINDS]:
        raise ConfigError(f"--kind {unknown[0]}: there are schedules of {', '.join(KINDS)}")
    return tuple(given) if given else KINDS


def _show(result: dict[str, Any], as_json: bool, *columns: str) -> None:
    """One JSON object, or a line a kind for a person."""
    if as_json:
        emit(result, as_json)
        return
    for row in result["schedules"]:
        cells = [row[column] for column in columns if row.get(column)]
        shown = [f"last run {cell['state']} {cell['link']}" if isinstance(cell, dict) else str(cell) for cell in cells]
        sys.stdout.write(f"{row['kind']:<8} {'  '.join(shown)}\n")
