"""`limaml monitor`: look at what is served now."""

from datetime import datetime
from typing import Annotated

import typer

from limaml.cli.common import App, Json, emit


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("monitor")(monitor)


def monitor(
    app: App,
    recent: Annotated[str, typer.Option("--recent", help="Task set the embeddings were made from.")],
    reference: Annotated[str, typer.Option("--reference", help="Task set the model was trained on.")],
    embeddings: Annotated[str, typer.Option("--embeddings", help="The generation that should be served.")],
    model: Annotated[str, typer.Option("--model", help="The model that made them.")],
    store: Annotated[str, typer.Option("--store", help="The online store, lmdb:///absolute/path.")],
    output: Annotated[str, typer.Option("--output", help="Directory to write: a path, file://… or s3://…")],
    day: Annotated[datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="Logical date.")],
    previous: Annotated[str, typer.Option("--previous", help="The generation before; empty on the first day.")] = "",
    at_date: Annotated[
        bool, typer.Option("--at-date", help="Measure ages at the start of --date, not now: what a rerun needs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check what is served for freshness, coverage, lineage and drift; alarms are reported, with exit code 0."""
    from datetime import UTC

    from limaml import storage
    from limaml.config import load_application
    from monitoring import monitor as stage

    now = None if at_date else datetime.now(UTC)
    manifest = stage.monitor(
        recent,
        reference,
        embeddings,
        previous or None,
        model,
        store,
        output,
        load_application(app),
        day.date(),
        now,
    )
    details = manifest.details
    page = storage.join(output, stage.PAGE)
    emit({**manifest.counts, "healthy": details["healthy"], "alarms": details["alarms"], "page": page}, as_json)
