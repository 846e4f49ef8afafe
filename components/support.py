"""What every component's body shares: how an error leaves a step, and how a manifest becomes its artifacts.

An error leaves a step three ways at once: as the last line of its log, as the process's exit code, and in the
termination log, the small file from which Kubernetes shows why a container ended and the local runner tells the user.
"""

import logging
import os
import select
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

TERMINATION_LOG = "LIMAML_TERMINATION_LOG"
LOCAL_RUN = "LIMAML_LOCAL_RUN"


class Step:
    """The frame around a component's work: quiet logging, and errors that say one clear thing.

    A user error ends the step with one `ERROR Type: message` line and its documented exit code; any other exception
    passes through with its traceback.
    """

    def __enter__(self) -> "Step":
        from limaml.console import configure_logging

        # Kubeflow's executor logs every library at INFO on standard output: ours alone remain.
        root = logging.getLogger()
        root.handlers.clear()
        root.setLevel(logging.WARNING)
        configure_logging()
        if os.environ.get(LOCAL_RUN):
            _end_with_the_runner()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        from limaml.errors import LimamlError

        if kind is None:
            return
        line = f"ERROR {kind.__name__}: {error}"
        _write_termination_log(line)
        if isinstance(error, LimamlError):
            sys.stderr.write(line + "\n")
            raise SystemExit(error.exit_code) from None


def save(manifest: Any, uri: str, artifact: Any) -> None:
    """Make a manifest a step's artifact: the JSON itself, with its URI, digest and counts as metadata."""
    Path(artifact.path).write_text(manifest.model_dump_json(indent=2) + "\n")
    artifact.metadata.update(
        uri=uri,
        kind=manifest.kind,
        digest=manifest.digest,
        **{f"count_{name}": value for name, value in manifest.counts.items()},
    )


def pages(uri: str) -> list[str]:
    """URIs of the HTML pages a stage wrote into its output."""
    from limaml import storage

    scheme = storage.normalize(uri).partition("://")[0]
    return [f"{scheme}://{info.path}" for info in storage.list_files(uri, ".html")]


def save_page(uri: str, artifact: Any) -> None:
    """Copy the page a stage wrote into an HTML artifact, so that the Kubeflow UI shows it."""
    from limaml import storage

    for page in pages(uri)[:1]:
        Path(artifact.path).write_bytes(storage.read_bytes(page))


def log_figures(figures: Any, artifact: Any, prefix: str = "") -> None:
    """Log the finite numbers of a mapping, nested ones by dotted name, as a Metrics artifact."""
    import math

    for name, value in figures.items():
        if isinstance(value, dict):
            log_figures(value, artifact, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and math.isfinite(value):
            artifact.log_metric(f"{prefix}{name}", float(value))


def _write_termination_log(line: str) -> None:
    path = Path(os.environ.get(TERMINATION_LOG) or "/dev/termination-log")
    if path.exists():
        path.write_text(line)


def _end_with_the_runner() -> None:
    """End this process when the runner that reads its output dies, or it would work on beside the next run."""
    if not hasattr(select, "poll"):
        return
    reader_gone = select.poll()
    reader_gone.register(1, 0)

    def watch() -> None:
        reader_gone.poll()
        os._exit(137)

    threading.Thread(target=watch, daemon=True).start()
