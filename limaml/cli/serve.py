"""`limaml serve`: the scorer as a service."""

from typing import Annotated

import typer

from limaml.cli.common import App, WorkspaceUri

Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes, of one core each.")]


def register(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("serve")(serve)


def serve(app: App, workspace: WorkspaceUri, host: Host = "127.0.0.1", port: Port = 8080, workers: Workers = 1) -> None:
    """Answer requests from the current release and, as it is published, from every newer one."""
    from limaml.config import load_application
    from limaml.serve.server import serve as serve_application
    from limaml.workspace import Workspace

    application = load_application(app)
    store_url = Workspace(workspace, application.name).store_url(application)
    serve_application(application, store_url, host, port, workers)
