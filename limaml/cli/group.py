"""Group validated interactions into a task set."""

from datetime import datetime
from typing import Annotated, Literal

import typer

from limaml.cli.common import App, Json, emit

Validated = Annotated[str, typer.Option("--validated", help="Where `limaml validate` wrote its result.")]
Output = Annotated[str, typer.Option("--output", help="Where the task set goes.")]
Date = Annotated[datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="The run's date: the first day not used.")]
Split = Annotated[
    Literal["train", "validation", "test", "recent"],
    typer.Option("--split", help="Which task set of that date; `recent` is what a daily refresh adapts on."),
]


def register(app: typer.Typer) -> None:
    """Mount `group`."""
    app.command("group")(_group)


def _group(app: App, validated: Validated, output: Output, date: Date, split: Split, as_json: Json = False) -> None:
    """Group validated interactions into whole tasks: sorted by time, capped, support before query."""
    from limaml.config import application_from_parameter
    from limaml.data.tasks import group_tasks
    from limaml.windows import refresh_split, training_splits

    application = application_from_parameter(app)
    day = date.date()
    splits = {**training_splits(application.windows, day), "recent": refresh_split(application.windows, day)}
    manifest = group_tasks(validated, output, application, splits[split])
    emit({"output": output, **manifest.counts, "digest": manifest.digest}, as_json)
