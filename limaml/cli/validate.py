"""`limaml validate`: may a window of interactions be used?"""

from datetime import datetime
from typing import Annotated

import typer

from limaml.cli.common import App, Json, emit

Data = Annotated[str, typer.Option("--data", help="Data root: the folder that holds interactions/date=YYYY-MM-DD.")]
Output = Annotated[str, typer.Option("--output", help="Directory to write: a path, file://… or s3://…")]
Start = Annotated[datetime, typer.Option("--start", formats=["%Y-%m-%d"], help="First logical day.")]
End = Annotated[datetime, typer.Option("--end", formats=["%Y-%m-%d"], help="First logical day after the window.")]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("validate")(validate)


def validate(app: App, data: Data, output: Output, start: Start, end: End, as_json: Json = False) -> None:
    """Check interactions: quarantine bad rows, refuse bad windows (exit code 3), write a page that says why."""
    from limaml import storage
    from limaml.config import load_application
    from limaml.data import validation
    from limaml.errors import ConfigError
    from limaml.windows import Window

    application = load_application(app)
    if start >= end:
        raise ConfigError(f"--start {start.date()} must be before --end {end.date()}, the first day not read")
    window = Window(start=start.date(), end=end.date(), utc_offset_hours=application.windows.utc_offset_hours)
    manifest = validation.validate(data, output, application, window)
    page = storage.join(output, validation.PAGE)
    emit({"passed": manifest.details["passed"], **manifest.counts, "page": page}, as_json)
