"""What every component's body shares: how an error leaves a step, and how a manifest becomes its artifacts.

An error leaves a step three ways at once: as the last line of its log, as the process's exit code, and in the
termination log, the small file from which Kubernetes shows why a container ended and the local runner tells the user.
"""

import contextlib
import logging
import os
import select
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

if TYPE_CHECKING:
    from datetime import date

    from limaml.config import Application
    from limaml.workspace import Workspace

log = logging.getLogger(__name__)

LOCAL_RUN = "LIMAML_LOCAL_RUN"
PIPELINE_RUN = "LIMAML_RUN_ID"  # read by limaml.training.registry, which takes seconds to import


class Step:
    """The frame around a component's work: quiet logging, the run's lease on its date, and errors that say one thing.

    A user error ends the step with one `ERROR Type: message` line and its documented exit code; any other exception
    passes through with its traceback. Outside a run, with no `run_id`, a step takes no lease and keeps no journal.
    """

    def __init__(self, name: str = "", run_id: str = "") -> None:
        self.name = name
        self.run_id = run_id
        self._stack = contextlib.ExitStack()
        self.place: Optional[Workspace] = None
        self._entry: Any = None
        self._output = ""
        self._figures: Dict[str, Any] = {}

    def __enter__(self) -> "Step":
        from limaml.console import configure_logging

        # Kubeflow's executor logs every library at INFO on standard output: ours alone remain.
        root = logging.getLogger()
        root.handlers.clear()
        root.setLevel(logging.WARNING)
        configure_logging()
        if self.run_id:
            os.environ[PIPELINE_RUN] = self.run_id
        if os.environ.get(LOCAL_RUN):
            _end_with_the_runner()
        return self

    def open(self, application: str, workspace: str) -> "Tuple[Application, Workspace]":
        """The application of the parameter, and its workspace.

        Raises:
            ConfigError: either is wrong.
        """
        from limaml import storage
        from limaml.config import application_from_parameter
        from limaml.errors import ConfigError
        from limaml.workspace import Workspace

        app = application_from_parameter(application)
        if not workspace:
            raise ConfigError("workspace: empty; give the run one, or the application a default: cluster.workspace")
        self.place = Workspace(storage.normalize(workspace), app.name)
        self._cluster = app.cluster
        return app, self.place

    def take(self, as_of: "date", what: str = "") -> "date":
        """Take up the run's lease on a date, or on `what` else it works on, and begin to keep the journal.

        Raises:
            LeaseHeld: another run has it.
            RunOverdue: the run has it for longer than it may.
        """
        from limaml import journal, lease
        from limaml.errors import RunOverdue

        if self.run_id:
            assert self.place is not None, "open() comes first"
            uri = self.place.lease(as_of, what)
            self._entry = journal.Entry(step=self.name, run_date=as_of, lease=uri)
            # On this machine the lease lives as long as the run; in a cluster a pod knows nothing of the next one.
            runner = os.environ.get(LOCAL_RUN)
            held = lease.hold(
                uri,
                f"run {self.run_id} (step {self.name})",
                token=self.run_id,
                between_seconds=60.0 * self._cluster.lease_minutes,
                pid=int(runner) if runner else None,
            )
            since = self._stack.enter_context(held)
            minutes, most = (time.time() - since) / 60, self._cluster.run_timeout_minutes
            if minutes > most:
                raise RunOverdue(
                    f"the run has worked on {as_of} for {minutes:.0f} minutes, cluster.run_timeout_minutes is {most}: "
                    "look at what took so long, or raise it; a new run goes on from finished work"
                )
            journal.write(self.place, self.run_id, self._entry)
        return as_of

    def save(self, manifest: Any, uri: str, artifact: Any, **figures: Any) -> None:
        """Make a manifest the step's artifact, and note in the journal what was written, with further figures."""
        save(manifest, uri, artifact)
        self._output = uri
        self._figures = figures

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        from limaml.console import last_words
        from limaml.errors import LimamlError

        self._note_the_end(error)
        self._stack.close()
        if kind is None:
            return
        line = f"ERROR {kind.__name__}: {error}"
        last_words(line)
        if isinstance(error, LimamlError):
            sys.stderr.write(line + "\n")
            raise SystemExit(error.exit_code) from None

    def _note_the_end(self, error: Optional[BaseException]) -> None:
        from limaml import journal
        from limaml.errors import LimamlError

        if self.place is None or not self.run_id or (self._entry is None and error is None):
            return
        entry = self._entry or journal.Entry(step=self.name)
        try:
            journal.write(self.place, self.run_id, entry.ended(error, self._output, self._figures))
        except LimamlError as failure:
            # What ended the step matters more than where it could not be written down.
            log.warning("can't keep the journal: %s", failure)


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


def write_table(title: str, facts: Dict[str, Any], artifact: Any) -> None:
    """Write facts as a Markdown artifact: a title and a table of two columns."""
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    Path(artifact.path).write_text("\n".join([f"# {title}", "", "| | |", "|---|---|", *rows]) + "\n")


def log_figures(figures: Any, artifact: Any, prefix: str = "") -> None:
    """Log the finite numbers of a mapping, nested ones by dotted name, as a Metrics artifact."""
    import math

    for name, value in figures.items():
        if isinstance(value, dict):
            log_figures(value, artifact, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and math.isfinite(value):
            artifact.log_metric(f"{prefix}{name}", float(value))


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
