"""What a person watching a command sees: log lines and progress, all on standard error.

Standard output belongs to results alone, so that `--json` can promise one object and nothing else there. Of the
processes that torchrun starts one speaks for all; the others only warn.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

stderr = Console(stderr=True, soft_wrap=True)

TERMINATION_LOG = "LIMAML_TERMINATION_LOG"


def leads() -> bool:
    """Whether this process speaks: it was started alone, or is the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def configure_logging(level: int = logging.INFO) -> None:
    """Send this project's log lines to standard error; call once, at the start of a command or component."""
    root = logging.getLogger()
    if any(getattr(handler, "limaml", False) for handler in root.handlers):
        return
    if sys.stderr.isatty():
        handler: logging.Handler = RichHandler(console=stderr, show_path=False, rich_tracebacks=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    handler.limaml = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    for name in ("limaml", "monitoring", "components", "pipelines"):
        logging.getLogger(name).setLevel(level if leads() else max(level, logging.WARNING))


@contextmanager
def progress() -> Iterator[Progress]:
    """A Rich progress display on standard error; silent where that is no terminal, or another process speaks."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not (stderr.is_terminal and leads())) as bar:
        yield bar


def last_words(line: str) -> None:
    """Leave why this process ends where Kubernetes, or whoever set `LIMAML_TERMINATION_LOG`, looks for it."""
    path = Path(os.environ.get(TERMINATION_LOG) or "/dev/termination-log")
    if path.exists():
        path.write_text(line)
