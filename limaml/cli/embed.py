"""`limaml embed`: the daily embeddings of all active tasks."""

from datetime import datetime
from typing import Annotated

import typer

from limaml.cli.common import App, Json, emit

ModelUri = Annotated[str, typer.Option("--model", help="Directory of a trained model: a path, file://… or s3://…")]
Tasks = Annotated[str, typer.Option("--tasks", help="Task set whose support rows are used.")]
Output = Annotated[str, typer.Option("--output", help="Directory to write: a path, file://… or s3://…")]
AsOf = Annotated[
    datetime, typer.Option("--as-of", formats=["%Y-%m-%d"], help="Logical date; every sample lies before it.")
]

PreviousUri = Annotated[
    str,
    typer.Option(
        "--previous", help="An earlier day's embeddings: only tasks whose samples changed since are computed."
    ),
]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("embed")(embed)


def embed(
    app: App,
    model: ModelUri,
    tasks: Tasks,
    output: Output,
    as_of: AsOf,
    previous: PreviousUri = "",
    as_json: Json = False,
) -> None:
    """Adapt the meta block to each task's recent samples and write the embeddings (Alg. 2b)."""
    from limaml.config import load_application
    from limaml.online.embeddings import generate_embeddings

    manifest = generate_embeddings(model, tasks, output, load_application(app), as_of.date(), previous)
    kept = {
        name: manifest.details[name] for name in ("model_version", "as_of", "width", "pooling", "changed", "removed")
    }
    emit({**manifest.counts, **kept, "newest_event_time": manifest.details["newest_event_time"]}, as_json)
