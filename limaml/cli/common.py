"""What every command shares: options, the one JSON line, errors as exit codes.

A module of commands has `register(app)`; the console script mounts them all. Commands import what they need inside
their bodies, so that `limaml --help` stays fast.
"""

import json
import sys
from typing import Annotated, Any

import typer

from limaml.console import configure_logging, last_words, stderr
from limaml.errors import LimamlError

App = Annotated[str, typer.Option("--app", help="A shipped application's name, or a path to its YAML.")]
WorkspaceUri = Annotated[str, typer.Option("--workspace", help="Where everything is kept: a path, file://… or s3://…")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]


def emit(result: dict[str, Any], as_json: bool) -> None:
    """Print a command's result: one JSON line, or aligned `name value` lines for a person."""
    if as_json:
        sys.stdout.write(json.dumps(result, default=str) + "\n")
        return
    width = max((len(name) for name in result), default=0)
    for name, value in result.items():
        shown = json.dumps(value, default=str) if isinstance(value, dict | list) else value
        sys.stdout.write(f"{name:<{width}}  {shown}\n")


def run(app: typer.Typer) -> int:
    """Run a Typer application; user errors become one `ERROR …` line and the documented exit code."""
    configure_logging()
    try:
        result = app(standalone_mode=False)
    except LimamlError as error:
        line = f"ERROR {type(error).__name__}: {error}"
        stderr.print(line, markup=False, highlight=False)
        last_words(line)
        return error.exit_code
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        stderr.print("interrupted", markup=False)
        return 130
    except Exception as error:
        # Typer raises usage errors as click exceptions, which know how to show themselves.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()  # type: ignore[attr-defined]
            return int(error.exit_code)  # type: ignore[attr-defined]
        raise
    return result if isinstance(result, int) else 0
