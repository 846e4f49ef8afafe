"""θ training outside of the step's own process: in several processes beside it, or in the pods of a TrainJob."""

import logging
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from components.launch import train_job
from components.launch.api import in_cluster
from components.launch.signals import ToldToEnd, until_told_to_end
from limaml.config import Application
from limaml.console import TERMINATION_LOG
from limaml.errors import LimamlError, from_line
from limaml.manifest import Manifest, canonical_json, read_manifest
from limaml.training.train import plan_model
from limaml.workspace import Workspace

log = logging.getLogger(__name__)

ENDING_SECONDS = 20.0


def is_elsewhere(application: Application) -> bool:
    """Whether θ is to be trained by other processes than the step's; without a cluster there are no other pods."""
    cluster = application.cluster
    return cluster.processes_per_node > 1 or (cluster.train_on == "trainjob" and in_cluster())


def train_elsewhere(application: Application, workspace: str, as_of: date, train: str, validation: str) -> Manifest:
    """Train as `train_model` does, by `limaml train` under torchrun; the same model in the same place.

    Raises:
        KubeflowError: see `Launch.run`.
        LimamlError: the error that training ended with.
    """
    place = Workspace(workspace, application.name)
    stage = plan_model(train, validation, place.model(""), application, as_of)
    if (finished := stage.finished()) is not None:
        return finished
    arguments = ["--workspace", workspace, "--train", train, "--validation", validation, "--date", as_of.isoformat()]
    if application.cluster.train_on == "trainjob" and in_cluster():
        train_job.train(application, stage.fingerprint, arguments)
    else:
        torchrun(application, arguments)
    return read_manifest(stage.output, "model")


def torchrun(application: Application, arguments: list[str]) -> None:
    """Run `limaml train` in `cluster.processes_per_node` processes on this machine.

    Raises:
        LimamlError: the error that training ended with.
    """
    text = canonical_json(application.model_dump(mode="json")).decode()
    processes = str(application.cluster.processes_per_node)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    command += ["-m", "pipelines.cli", "train", "--app", text, *arguments]
    log.info("training in %s processes", processes)
    with tempfile.TemporaryDirectory(prefix="limaml-torchrun-") as folder, until_told_to_end():
        words = Path(folder) / "last-words"
        words.touch()
        # Standard output is for results, and what torchrun starts would print another.
        process = subprocess.Popen(command, env={**os.environ, TERMINATION_LOG: str(words)}, stdout=sys.stderr.fileno())
        try:
            code = process.wait()
        except ToldToEnd:
            _end(process)
            raise SystemExit(143) from None
        if code:
            raise from_line(words.read_text()) or LimamlError(f"training in {processes} processes failed: see its log")


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
