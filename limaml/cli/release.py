"""`limaml publish` and `limaml release`: what the online store serves."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limaml.cli.common import App, Json, WorkspaceUri, emit
from limaml.errors import ConfigError

if TYPE_CHECKING:
    from limaml.config import Application
    from limaml.online.store import Release, Store

Embeddings = Annotated[str, typer.Option("--embeddings", help="Directory of generated embeddings.")]
Decision = Annotated[
    str, typer.Option("--decision", help="The gate's decision on this pair; without it, a refresh of the same model.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for whoever meets the hold.")]
To = Annotated[int | None, typer.Option("--to", help="Number of the release to return to; by default, the one before.")]
Off = Annotated[bool, typer.Option("--off", help="End the hold.")]


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    app.command("publish")(publish)
    group = typer.Typer(no_args_is_help=True, help="Show, list, roll back, hold and clean up releases.")
    group.command("init")(init)
    group.command("show")(show)
    group.command("list")(list_releases)
    group.command("rollback")(rollback)
    group.command("hold")(hold)
    group.command("gc")(gc)
    app.add_typer(group, name="release")


def publish(
    app: App, workspace: WorkspaceUri, embeddings: Embeddings, decision: Decision = "", as_json: Json = False
) -> None:
    """Make embeddings and their model the current release."""
    from limaml.config import load_application
    from limaml.online.release import publish as publish_embeddings
    from limaml.workspace import Workspace

    application = load_application(app)
    url = Workspace(workspace, application.name).store_url(application)
    emit(_describe(publish_embeddings(embeddings, url, application, decision or None)), as_json)


def init(app: App, workspace: WorkspaceUri, as_json: Json = False) -> None:
    """Make what the store needs before its first publish: DynamoDB's table. Other stores need nothing."""
    from limaml.config import load_application
    from limaml.online.store import prepare_store
    from limaml.workspace import Workspace

    application = load_application(app)
    url = Workspace(workspace, application.name).store_url(application)
    emit({"store": url, "created": prepare_store(url)}, as_json)


def show(app: App, workspace: WorkspaceUri, as_json: Json = False) -> None:
    """Show the current release: model, generation, and how old it is."""
    from limaml.online.release import current

    store, application = _store(app, workspace)
    emit(_describe(current(store.url, application)), as_json)


def list_releases(app: App, workspace: WorkspaceUri, as_json: Json = False) -> None:
    """List every release there has been, newest first."""
    store, _ = _store(app, workspace)
    releases = store.releases()
    if as_json:
        emit({"releases": [_describe(each) for each in releases], "generations": store.generations()}, as_json)
        return
    kept = set(store.generations())
    for each in releases:
        notes = [f"rollback of {each.rollback_from}"] if each.rollback_from else []
        notes += [f"held: {each.held}"] if each.held else []
        notes += [] if each.generation in kept else ["collected"]
        sys.stdout.write(
            f"{each.number:>4}  {each.published_at:%Y-%m-%d %H:%M}  {each.generation}  model {each.model_version}  "
            f"{each.tasks:,} tasks  {'; '.join(notes)}".rstrip()
            + "\n"
        )


def rollback(app: App, workspace: WorkspaceUri, reason: Reason = "", to: To = None, as_json: Json = False) -> None:
    """Return to the release before the current one, model and embeddings at once, and hold it."""
    from limaml.online.release import rollback as roll_back

    store, _ = _store(app, workspace)
    emit(_describe(roll_back(store, reason, to)), as_json)


def hold(app: App, workspace: WorkspaceUri, reason: Reason = "", off: Off = False, as_json: Json = False) -> None:
    """Keep newer publishes from replacing the current release; with --off, let them again."""
    from limaml.online.release import hold as hold_release

    if off and reason:
        raise ConfigError("--off ends a hold and takes no --reason; give one of them")
    store, _ = _store(app, workspace)
    emit(_describe(hold_release(store, "" if off else reason or "held by hand")), as_json)


def gc(app: App, workspace: WorkspaceUri, as_json: Json = False) -> None:
    """Delete generations that no release or rollback needs any more (store.keep_generations, store.keep_days)."""
    from limaml.online.release import collect_unneeded

    store, application = _store(app, workspace)
    deleted = collect_unneeded(store, application)
    emit({"deleted": deleted, "kept": store.generations()}, as_json)


def _store(app: str, workspace: str) -> "tuple[Store, Application]":
    from limaml.config import load_application
    from limaml.online.store import open_store
    from limaml.workspace import Workspace

    application = load_application(app)
    return open_store(Workspace(workspace, application.name).store_url(application), application.name), application


def _describe(release: "Release") -> dict[str, Any]:
    age = (datetime.now(UTC) - release.cutoff).total_seconds()
    return {"name": release.name, **release.model_dump(mode="json"), "age_seconds": round(age)}
