"""`limaml train` and `limaml gate`: the two stages a model passes through."""

from datetime import datetime
from typing import Annotated

import typer

from limaml.cli.common import App, Json, WorkspaceUri, emit

Date = Annotated[datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="The run's date: the first day not used.")]
Validation = Annotated[str, typer.Option("--validation", help="Task set of the validation split.")]


def register(app: typer.Typer) -> None:
    """Add both commands."""

    @app.command()
    def train(
        app_name: App,
        workspace: WorkspaceUri,
        train_set: Annotated[str, typer.Option("--train", help="Task set of the train split.")],
        validation: Validation,
        date: Date,
        as_json: Json = False,
    ) -> None:
        """Train θ and the vanilla baseline on the same batches; log the run to MLflow.

        With a GPU each: torchrun --nproc-per-node N --no-python limaml train …
        """
        from limaml.config import application_from_parameter
        from limaml.console import leads
        from limaml.training.train import train_model
        from limaml.workspace import Workspace

        application = application_from_parameter(app_name)
        place = Workspace(workspace, application.name)
        manifest = train_model(train_set, validation, place.model(""), application, place.tracking_uri(), date.date())
        if leads():
            emit({**manifest.counts, **manifest.details}, as_json)

    @app.command()
    def gate(
        app_name: App,
        workspace: WorkspaceUri,
        model: Annotated[str, typer.Option(help="URI of the model to judge.")],
        embeddings: Annotated[str, typer.Option(help="URI of the embeddings it generated on the test split.")],
        validation: Validation,
        test: Annotated[str, typer.Option("--test", help="Task set of the test split.")],
        date: Date,
        data: Annotated[str, typer.Option(help="Data root whose truth/, visits/ and signups/ are used if there.")] = "",
        as_json: Json = False,
    ) -> None:
        """Judge the pair of model and embeddings; exit code 4 when the champion stays."""
        from limaml.config import load_application
        from limaml.errors import GateRefused
        from limaml.manifest import read_manifest
        from limaml.training.gate import judge
        from limaml.workspace import Workspace

        application = load_application(app_name)
        place = Workspace(workspace, application.name)
        version = read_manifest(model, "model").details["model_version"]
        manifest = judge(
            model,
            embeddings,
            validation,
            test,
            place.decision(version),
            application,
            place.tracking_uri(),
            date.date(),
            data or place.data,
            raise_on_refusal=False,
        )
        details = manifest.details
        emit({name: details[name] for name in ("promoted", "model_version", "champion", "reasons")}, as_json)
        if not details["promoted"]:
            raise GateRefused(f"model {version} stays a challenger: {'; '.join(details['reasons'])}")
