"""Run a pipeline on this machine: its compiled YAML, step after step, each in a process of its own.

Kubeflow's local runner only says which step failed. Why is in the termination log that `components.support` writes,
as it does in a cluster; here it becomes the same error again, with the same exit code.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import yaml

from components import support
from limaml import errors
from limaml.console import TERMINATION_LOG

_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def run_pipeline(pipeline: Any, arguments: dict[str, str]) -> errors.LimamlError | None:
    """Run a pipeline and stream its steps' logs to standard error; gives the error that ended it, if any.

    Raises:
        ConfigError: an argument holds `python3`, which Kubeflow's local runner would rewrite.
    """
    with tempfile.TemporaryDirectory(prefix="limaml-run-") as folder:
        for name, value in {**arguments, "the folder for temporary files": folder}.items():
            if "python3" in value:
                raise errors.ConfigError(
                    f"{name}: Kubeflow's local runner rewrites 'python3' inside arguments, and {value[:200]!r} holds "
                    "it: use another name or path (a link is enough)"
                )
        root = Path(folder)
        termination_log = root / "termination.log"
        termination_log.touch()
        runnable, titles = _compile(pipeline, root)
        return _execute(runnable, arguments, root, termination_log, StepLog(sys.stderr, titles))


def _compile(pipeline: Any, folder: Path) -> tuple[Any, dict[str, str]]:
    """The compiled pipeline without what only a cluster can use, and its steps' titles by name."""
    from kfp import compiler, components

    package = folder / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(package))
    spec = next(iter(yaml.safe_load_all(package.read_text())))
    titles = {}
    for part in (spec["root"], *spec["components"].values()):
        for name, task in part.get("dag", {}).get("tasks", {}).items():
            titles[name] = task["taskInfo"]["name"]
            task["taskInfo"]["name"] = name
            # Who waits at a terminal would wait for the same error again: a second attempt is theirs to make.
            task.pop("retryPolicy", None)
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"]["image"] = "python"  # the runner takes this interpreter, and wants the name to say so
        for part in ("resources", "env"):
            executor["container"].pop(part, None)
    return components.load_component_from_text(yaml.safe_dump(spec)), titles


def _execute(
    pipeline: Any, arguments: dict[str, str], root: Path, termination_log: Path, log: "StepLog"
) -> errors.LimamlError | None:
    from kfp import local

    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root / "outputs"))
    environment = {
        TERMINATION_LOG: str(termination_log),
        support.LOCAL_RUN: str(os.getpid()),
        "PYTHONSAFEPATH": "1",  # a folder of the user's called `components` must not shadow ours
        "TMPDIR": str(root),
    }
    with _environment(environment), contextlib.redirect_stdout(log):
        try:
            pipeline(**arguments)
        except RuntimeError as failure:
            message = termination_log.read_text() or _COLOR.sub("", str(failure))
            return _revive(message, log.failed or log.step)
    return None


def _revive(message: str, step: str) -> errors.LimamlError:
    """The error a step ended with; one that is not ours keeps its name inside the message."""
    if (known := errors.from_line(message)) is not None:
        return known
    return errors.LimamlError(f"step {step!r} failed: {message.removeprefix('ERROR ')} (its log is above)")


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class StepLog:
    """A text stream that passes on what a person watches: which step runs, and that step's own lines.

    The runner's banners and the executor's dump of its input (the whole configuration, once a step) stay out.
    """

    def __init__(self, sink: TextIO, titles: Mapping[str, str] | None = None) -> None:
        self.sink = sink
        self.titles = titles or {}
        self.step = ""
        self.failed = ""
        self._line = ""
        self._inside = False
        self._dump = False

    def write(self, text: str) -> int:
        """Take text in any pieces."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._take(_COLOR.sub("", line))
        return len(text)

    def flush(self) -> None:
        """Pass on what is complete."""
        self.sink.flush()

    def _take(self, line: str) -> None:
        if match := re.search(r" - INFO - Executing task '(.+)'$", line):
            self.step, self._inside = self.titles.get(match[1], match[1]), True
            self.sink.write(f"── {self.step}\n")
        elif match := re.search(r" - (INFO|ERROR) - Task '(.+)' finished with status (\w+)", line):
            self._inside = False
            if match[3] == "FAILURE" and not self.failed:
                self.failed = self.titles.get(match[2], match[2])
        elif self._dump:
            self._dump = line.rstrip() != "    }"
        elif line.startswith("    [KFP Executor"):
            self._dump = line.endswith("Got executor_input:")
        elif self._inside and line.startswith("    ") and line.strip():
            self.sink.write(line[4:] + "\n")
