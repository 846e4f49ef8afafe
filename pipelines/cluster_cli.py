"""`limaml submit`, `limaml pipelines`: what reaches Kubeflow Pipelines from the command line."""

import inspect
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limaml.cli.common import App, Json, emit
from limaml.errors import ConfigError, KubeflowError

if TYPE_CHECKING:
    from limaml.config import Application
    from pipelines.kubeflow import Access, Kubeflow
    from pipelines.run import Finished

Host = Annotated[
    str,
    typer.Option("--host", envvar="KF_PIPELINES_ENDPOINT", help="URL of Kubeflow Pipelines' API; in a pod: its own."),
]
KfpNamespace = Annotated[
    str,
    typer.Option("--kfp-namespace", envvar="KF_PIPELINES_NAMESPACE", help="The team's, where each has one."),
]
TokenVariable = Annotated[
    str, typer.Option("--token-variable", help="Environment variable that holds the token; else KF_PIPELINES_TOKEN.")
]
Ca = Annotated[str, typer.Option("--ca", envvar="KF_PIPELINES_CA", help="File of the CA that signed its certificate.")]
_ACCESS = {"host": Host, "kfp_namespace": KfpNamespace, "token_variable": TokenVariable, "ca": Ca}

Kind = Annotated[str, typer.Argument(metavar="PIPELINE", help="train, refresh, monitor, ab_report or backfill.")]
Image = Annotated[
    str, typer.Option("--image", envvar="LIMAML_IMAGE", help="Container image of every step; default: this version's.")
]
Workspace = Annotated[str, typer.Option("--workspace", help="Another workspace than the application's.")]
Data = Annotated[str, typer.Option("--data", help="Another data root than the application's.")]
RunDate = Annotated[datetime | None, typer.Option("--date", formats=["%Y-%m-%d"], help="Logical date; none: today.")]
Parameter = Annotated[
    list[str] | None, typer.Option("--param", help="name=value, for any parameter of the pipeline; may be repeated.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Follow the run to its end; exit code 8 where it did not succeed.")]


def on_kubeflow(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `access` becomes the four options that say where Kubeflow is and who asks."""

    @wraps(command)
    def with_options(**given: Any) -> None:
        from pipelines.kubeflow import Access

        command(Access(*(given.pop(name) for name in _ACCESS)), **given)

    own = {name: each for name, each in inspect.signature(command).parameters.items() if name != "access"}
    options = {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=kind)
        for name, kind in _ACCESS.items()
    }
    parameters = {name: each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, each in (own | options).items()}
    # What Typer reads.
    with_options.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    with_options.__annotations__ = {name: each.annotation for name, each in parameters.items()}
    return with_options


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("submit")(submit)
    group = typer.Typer(no_args_is_help=True, help="Upload, list and remove an application's pipelines in Kubeflow.")
    group.command("register")(register_pipelines)
    group.command("list")(list_pipelines)
    group.command("remove")(remove_pipelines)
    group.command("manifests")(pipeline_manifests)
    app.add_typer(group, name="pipelines")


@on_kubeflow
def submit(
    access: "Access",
    kind: Kind,
    app: App,
    workspace: Workspace = "",
    data: Data = "",
    image: Image = "",
    run_date: RunDate = None,
    parameter: Parameter = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Start one run on Kubeflow and say where to watch it."""
    from limaml.config import load_application
    from pipelines.kubeflow import connect
    from pipelines.submit import submit as start

    application = load_application(app)
    given = {"workspace": workspace, "data": data} | _parameters(parameter or [])
    kubeflow = connect(access)
    started = start(kubeflow, application, kind, given, run_date.date() if run_date else None, image)
    follow(kubeflow, application, started, wait, as_json)


def follow(
    kubeflow: "Kubeflow", application: "Application", started: dict[str, Any], wait: bool, as_json: bool
) -> None:
    """Print what was started; where asked for, wait for its end first, and end as it ends."""
    from pipelines.submit import closing_words, limit_minutes, watch

    result = started | (watch(kubeflow, started["run_id"], limit_minutes(application)) if wait else {})
    failed = wait and result["state"] != "SUCCEEDED"
    if failed and (words := closing_words(application, started)):
        result["reason"] = words
    emit(result, as_json)
    if failed:
        raise KubeflowError(f"run {result['run_id']} ended {result['state']}: {result['reason'] or 'see its page'}")


def finish(finished: "Finished", as_json: bool) -> None:
    """Print what a run on this machine says, then end as it ended: a refusal is an answer too."""
    emit(finished.result, as_json)
    if finished.error is not None:
        raise finished.error


@on_kubeflow
def register_pipelines(
    access: "Access",
    app: App,
    image: Image = "",
    as_json: Json = False,
) -> None:
    """Upload what Kubeflow does not have yet of an application's pipelines; safe to repeat."""
    from dataclasses import asdict

    from limaml.config import load_application
    from pipelines.kubeflow import connect
    from pipelines.uploads import register as upload_all

    application = load_application(app)
    versions = upload_all(connect(access), application, image)
    emit({"application": application.name, "pipelines": [asdict(each) for each in versions]}, as_json)


@on_kubeflow
def list_pipelines(
    access: "Access",
    app: App,
    as_json: Json = False,
) -> None:
    """List an application's pipelines in Kubeflow with their versions."""
    from limaml.config import load_application
    from pipelines.kubeflow import connect
    from pipelines.uploads import registered

    name = load_application(app).name
    found = registered(connect(access), name)
    emit({"application": name, "pipelines": list(found)}, as_json)


@on_kubeflow
def remove_pipelines(
    access: "Access",
    app: App,
    as_json: Json = False,
) -> None:
    """Delete an application's pipelines from Kubeflow; runs there have been stay."""
    from limaml.config import load_application
    from pipelines.kubeflow import connect
    from pipelines.uploads import remove

    name = load_application(app).name
    removed = remove(connect(access), name)
    emit({"application": name, "removed": removed}, as_json)


def pipeline_manifests(app: App, image: Image = "") -> None:
    """Print an application's pipelines as Kubernetes objects: values of the chart, for `helm --values`."""
    import sys

    import yaml

    from limaml.config import load_application
    from pipelines.manifests import manifests

    made = manifests(load_application(app), image)
    sys.stdout.write(yaml.safe_dump({"kubeflow": {"manifests": made}}, sort_keys=False, width=120, allow_unicode=True))


def _parameters(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ConfigError(f"--param {wrong[0]}: give name=value")
    return {name: value for name, _, value in pairs}
