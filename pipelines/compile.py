"""`python -m pipelines.compile --out DIR`: every pipeline as the YAML Kubeflow Pipelines takes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from limaml import storage
from limaml.cli import common

Out = Annotated[Path, typer.Option("--out", help="Folder to write to; made when missing.")]


def pipelines() -> dict[str, Any]:
    """Every pipeline by name."""
    from pipelines.ab_report import ab_report
    from pipelines.refresh import refresh
    from pipelines.train import train

    return {"train": train, "refresh": refresh, "ab_report": ab_report}


def compile_all(out: Path) -> list[Path]:
    """Write `<name>.yaml` for every pipeline.

    Raises:
        StorageError: the folder can't be written.
    """
    from kfp import compiler

    written = []
    for name, pipeline in pipelines().items():
        path = out / f"{name}.yaml"
        with storage.storage_errors(str(path), "write"):
            out.mkdir(parents=True, exist_ok=True)
            compiler.Compiler().compile(pipeline, str(path))
        written.append(path)
    return written


def command(out: Out, as_json: common.Json = False) -> None:
    """Compile every pipeline; the image is LIMAML_IMAGE where set."""
    from components import IMAGE

    common.emit({"image": IMAGE, "files": [str(path) for path in compile_all(out)]}, as_json)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(command)
    raise SystemExit(common.run(app))
