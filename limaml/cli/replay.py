"""`limaml replay`: whether what was served is what an offline run computes."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated

import typer

from limaml.cli.common import App, Json, WorkspaceUri, emit

Exposures = Annotated[
    str, typer.Option("--exposures", help="Folder of the service's log, recorded with experiment.exposures.features.")
]
Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Logical days [start, end); default: all.")]
Tolerance = Annotated[float, typer.Option("--tolerance", min=0.0, help="Largest difference of equal scores.")]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("replay")(replay)


def replay(
    app: App,
    workspace: WorkspaceUri,
    exposures: Exposures,
    start: Day = None,
    end: Day = None,
    tolerance: Tolerance = 1e-6,
    as_json: Json = False,
) -> None:
    """Score logged requests once more by the releases that answered them; exit code 3 where anything differs."""
    from limaml.config import load_application
    from limaml.errors import ConfigError
    from limaml.serve.replay import check
    from limaml.serve.replay import replay as replay_log
    from limaml.workspace import Workspace

    if (start is None) != (end is None):
        raise ConfigError("--start and --end: give both or neither")
    application = load_application(app)
    days = [start.date() + timedelta(days=n) for n in range((end - start).days)] if start and end else []
    url = Workspace(workspace, application.name).store_url(application)
    result = replay_log(exposures, url, application, days, tolerance)
    emit({**asdict(result), "equal": result.equal}, as_json)
    check(result, exposures)
