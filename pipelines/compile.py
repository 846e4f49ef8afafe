"""`python -m pipelines.compile --out DIR`: an application's pipelines as the YAML Kubeflow Pipelines takes."""

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from limaml import storage
from limaml.cli import common
from limaml.config import Application, load_application
from limaml.errors import ConfigError

KINDS = ("train", "refresh", "monitor", "ab_report", "backfill")

Out = Annotated[Path, typer.Option("--out", help="Folder to write to; made when missing.")]
AppOrPtap = Annotated[str, typer.Option("--app", help="A shipped application's name, or a path to its YAML.")]
Image = Annotated[str, typer.Option("--image", envvar="LIMAML_IMAGE", help="Default of the parameter `image`.")]
Workspace = Annotated[str, typer.Option("--workspace", help="Default of `workspace`; else the application's own.")]
Data = Annotated[str, typer.Option("--data", help="Default of `data`; else the application's own.")]


def define(
    kind: str, application: Application, *, image: str = "", workspace: str = "", data: str = "", run_id: str = ""
) -> Any:
    """A pipeline of an application; what is not given is the application's own, this version's image, Kubeflow's id.

    Raises:
        ConfigError: there is no such kind of pipeline.
    """
    from components import IMAGE
    from pipelines.setup import Setup

    if kind not in KINDS:
        raise ConfigError(f"no pipeline {kind!r}; there are {', '.join(KINDS)}")
    cluster = application.cluster
    places = (workspace or cluster.workspace, data or cluster.data)
    setup = Setup(application, image or IMAGE, *places, **({"run_id": run_id} if run_id else {}))
    return getattr(import_module(f"pipelines.{kind}"), kind)(setup)


def compile_pipeline(
    kind: str, application: Application, *, image: str = "", workspace: str = "", data: str = ""
) -> str:
    """A pipeline as YAML: its specification, then what each step asks of the cluster; equal inputs give equal text.

    Raises:
        ConfigError: there is no such kind of pipeline.
    """
    from kfp import compiler

    pipeline = define(kind, application, image=image, workspace=workspace, data=data)
    with tempfile.TemporaryDirectory(prefix="limaml-compile-") as folder:
        package = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(package))
        return package.read_text()


def pipeline_name(kind: str, application: str) -> str:
    """What a pipeline is called in Kubeflow: `ptap-ab-report`."""
    return f"{application}-{kind}".replace("_", "-")


def compile_all(
    out: Path, application: Application, *, image: str = "", workspace: str = "", data: str = ""
) -> list[Path]:
    """Write `<kind>.yaml` for every pipeline of an application.

    Raises:
        StorageError: the folder can't be written.
    """
    written = []
    for kind in KINDS:
        text = compile_pipeline(kind, application, image=image, workspace=workspace, data=data)
        path = out / f"{kind}.yaml"
        with storage.storage_errors(str(path), "write"):
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        written.append(path)
    return written


def command(
    out: Out,
    app: AppOrPtap = "ptap",
    image: Image = "",
    workspace: Workspace = "",
    data: Data = "",
    as_json: common.Json = False,
) -> None:
    """Compile an application's pipelines, with its resources, secrets, volumes and defaults in them."""
    from components import IMAGE

    paths = compile_all(out, load_application(app), image=image, workspace=workspace, data=data)
    common.emit({"application": app, "image": image or IMAGE, "files": [str(path) for path in paths]}, as_json)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(command)
    raise SystemExit(common.run(app))
