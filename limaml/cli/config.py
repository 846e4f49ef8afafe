"""`limaml config`: check, show and export the configuration."""

import json
import sys
from typing import Annotated

import typer

from limaml.cli.common import Json, emit

Names = Annotated[list[str] | None, typer.Argument(help="Shipped names or paths to YAML files; none: all shipped.")]
Name = Annotated[str, typer.Argument(help="A shipped application's name, or a path to its YAML.")]
AppOption = Annotated[str, typer.Option("--app", help="The same, as an option.")]


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    group = typer.Typer(no_args_is_help=True, help="Check, show and export an application's configuration.")
    group.command("check")(check)
    group.command("show")(show)
    group.command("schema")(schema)
    app.add_typer(group, name="config")


def check(names: Names = None, app: AppOption = "", as_json: Json = False) -> None:
    """Say whether configurations are right; all that is wrong in one at once, each with its path."""
    from limaml.application_files import shipped_applications
    from limaml.config import load_application

    chosen = [*(names or []), *([app] if app else [])] or shipped_applications()
    result = {}
    for name in chosen:
        application = load_application(name)
        result[application.name] = {
            "task": list(application.task.keys),
            "meta_features": len(application.features.meta),
            "other_features": len(application.features.other),
            "config_hash": application.config_hash,
        }
    if as_json:
        emit({"valid": True, "applications": result}, as_json)
        return
    for name, facts in result.items():
        sys.stdout.write(
            f"{name}: valid; one task per ({', '.join(facts['task'])}), {facts['meta_features']} meta and "
            f"{facts['other_features']} other features, hash {facts['config_hash'][:12]}\n"
        )


def show(name: Name = "", app: AppOption = "", as_json: Json = False) -> None:
    """Print a configuration with every default spelled out, as YAML or as the JSON string pipelines take."""
    import yaml

    from limaml.config import load_application
    from limaml.errors import ConfigError

    if not (name or app):
        raise ConfigError("name an application: limaml config show NAME")
    content = load_application(name or app).model_dump(mode="json")
    if as_json:
        emit(content, as_json)
    else:
        sys.stdout.write(yaml.safe_dump(content, sort_keys=False, width=100, allow_unicode=True))


def schema(as_json: Json = False) -> None:
    """Print the JSON schema of an application's YAML, for editors and for the chart."""
    from limaml.application_schema import file_schema

    content = file_schema()
    if as_json:
        emit(content, as_json)
    else:
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
