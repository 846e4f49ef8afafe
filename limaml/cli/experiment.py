"""`limaml play` and `limaml analyze`: an A/B test played out in the simulated world, and its report."""

from datetime import datetime
from typing import Annotated, Any

import typer

from limaml.cli.common import App, Json, WorkspaceUri, emit
from limaml.config import Application
from limaml.manifest import Manifest
from limaml.windows import Window
from limaml.workspace import Workspace

Output = Annotated[str, typer.Option("--output", help="Where the result goes.")]
Start = Annotated[datetime, typer.Option("--start", formats=["%Y-%m-%d"], help="First day of the test.")]
End = Annotated[datetime, typer.Option("--end", formats=["%Y-%m-%d"], help="The day after its last.")]


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command("play")(_play)
    app.command("analyze")(_analyze)


def play_test(application: Application, workspace: Workspace, data: str, output: str, window: Window) -> Manifest:
    """Play a test between the release now served (treatment) and its vanilla baseline (control).

    Args:
        application: the configuration.
        workspace: whose online store serves.
        data: the simulated data root, which ends where the window starts.
        output: URI of the test's logs.
        window: logical days of the test.

    Raises:
        StoreError: nothing is released.
        ConfigError: the first test's arms are other models.
        DataError, ConfigError: the data root was not simulated, or ends on another day.
    """
    from limaml.data.simulator import resume_world
    from limaml.errors import ConfigError
    from limaml.experiment.assignment import CONTROL, TREATMENT
    from limaml.experiment.play import play
    from limaml.manifest import read_manifest
    from limaml.online.scoring import BaselineScorer, Scorer

    arms = application.experiment.control, application.experiment.treatment
    if arms != ("vanilla", "current"):
        raise ConfigError(
            f"experiment: arms {arms[0]!r} and {arms[1]!r}; what is played is 'vanilla' against 'current'"
        )
    treatment = Scorer.open(workspace.store_url(application), application)
    release = treatment.release
    control = BaselineScorer.open(release.model_uri, application)
    served = {
        "world": read_manifest(data).digest,
        "model": release.model_digest,
        "embeddings": release.embeddings_digest,
    }
    scorers = {CONTROL: control, TREATMENT: treatment}
    return play(resume_world(data, application), application, scorers, output, window, data, served)


def _window(application: Application, start: datetime, end: datetime) -> Window:
    return Window(start=start.date(), end=end.date(), utc_offset_hours=application.windows.utc_offset_hours)


def _play(
    app_name: App,
    workspace: WorkspaceUri,
    output: Output,
    start: Start,
    end: End,
    data: str = "",
    as_json: Json = False,
) -> None:
    """Play an A/B test out: vanilla against the current release, in the world `limaml simulate` made."""
    from limaml.config import load_application

    application = load_application(app_name)
    place = Workspace(workspace, application.name)
    manifest = play_test(application, place, data or place.data, output, _window(application, start, end))
    emit({"output": output, **manifest.counts}, as_json)


def _analyze(
    app_name: App,
    exposures: Annotated[str, typer.Option("--exposures", help="Folder of exposures by day, with outcomes.")],
    visits: Annotated[str, typer.Option("--visits", help="Folder of visits by day, those before the test included.")],
    signups: Annotated[str, typer.Option("--signups", help="Folder of sign-ups.")],
    output: Output,
    start: Start,
    end: End,
    outcomes: Annotated[
        str, typer.Option("--outcomes", help="Folder: which exposed items were shown and clicked.")
    ] = "",
    test: Annotated[
        str, typer.Option("--test", help="Name of one of the application's tests; default: the first.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Compare the arms of an A/B test: CTR and weekly active users by cohort, as JSON, CSV and one page."""
    from limaml.config import load_application
    from limaml.experiment.analysis import analyze

    application = load_application(app_name)
    manifest = analyze(
        exposures, visits, signups, output, application, _window(application, start, end), outcomes, test
    )
    result: dict[str, Any] = {"output": output, **manifest.counts, "conclusions": manifest.details["conclusions"]}
    emit(result, as_json)
