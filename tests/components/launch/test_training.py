"""θ trained beside the step and in a TrainJob: the model that torchrun gives by hand."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl

from components.launch import train_job
from components.launch.training import train_elsewhere
from components.launch.watch import Limits
from components.train_theta import train_theta
from limaml.config import Application, parse_application
from limaml.errors import DataError
from limaml.manifest import read_manifest
from limaml.training.train import plan_model
from limaml.workspace import Workspace
from tests.components.launch.cluster import Cluster, api, pod, running
from tests.limaml.training.planted import APPLICATION, AS_OF, TaskSets, group_all

pytestmark = pytest.mark.heavy

BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def _commands_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def application() -> Application:
    content = APPLICATION.model_dump(mode="json")
    content["training"]["epochs"] = 2
    return parse_application(content | {"cluster": {"processes_per_node": 2}}, "tests")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> TaskSets:
    return group_all(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory, sets: TaskSets, application: Application) -> dict[str, str]:
    """SHA-256 of the model's files, made by the command that `docs/distributed.md` gives."""
    folder = tmp_path_factory.mktemp("by-hand")
    (folder / "app.yaml").write_text(yaml.safe_dump(application.model_dump(mode="json")))
    command = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", "--no-python", str(BIN / "limaml")]
    command += ["train", "--app", str(folder / "app.yaml"), "--workspace", str(folder), "--date", AS_OF.isoformat()]
    command += ["--train", sets.train, "--validation", sets.validation]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return files(folder)


def files(workspace: Path) -> dict[str, str]:
    (found,) = workspace.glob("*/model/*/manifest.json")
    return {entry.path: entry.sha256 for entry in read_manifest(str(found.parent)).files}


def test_the_step_gives_the_model_that_torchrun_gives(
    tmp_path: Path, sets: TaskSets, application: Application, by_hand: dict[str, str]
) -> None:
    (tmp_path / "outputs").mkdir()
    outputs: dict[str, Any] = {
        name: kind(name=name, uri=str(tmp_path / "outputs" / name))
        for name, kind in {"manifest": dsl.Artifact, "report": dsl.HTML, "metrics": dsl.Metrics}.items()
    }
    workspace, text = str(tmp_path / "w"), application.model_dump_json()
    uri = train_theta.python_func(text, workspace, AS_OF.isoformat(), sets.train, sets.validation, **outputs)
    assert files(tmp_path / "w") == by_hand
    assert outputs["manifest"].metadata["uri"] == uri
    assert outputs["metrics"].metadata["validation_auc.limaml"] > 0.5


def test_what_ends_training_is_the_steps_error(tmp_path: Path, sets: TaskSets, application: Application) -> None:
    damaged = Path(sets.test) / "shard=000.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="changed after it was written"):
        train_elsewhere(application, str(tmp_path), AS_OF, sets.train, sets.test)
    damaged.write_bytes(whole)


@pytest.fixture
def operator() -> Iterator[tuple[Cluster, str]]:
    """A cluster whose Trainer runs what it is asked to, here."""
    cluster = Cluster()
    ran: list[subprocess.CompletedProcess] = []

    def act(cluster: Cluster, body: dict[str, Any]) -> None:
        trainer, name = body["spec"]["trainer"], body["metadata"]["name"]
        if not ran:
            launched = {"PET_NNODES": "1", "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]), "PET_NODE_RANK": "0"}
            launched |= {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "29511"}
            launched |= {each["name"]: each["value"] for each in trainer["env"]}
            command = [*trainer["command"], *trainer["args"]]
            ran.append(subprocess.run(command, env=os.environ | launched, capture_output=True, text=True))
        cluster.pods = [pod("node-0-0", name, "Succeeded")]
        kind = "Failed" if ran[0].returncode else "Complete"
        conditions = [{"type": kind, "status": "True", "reason": "", "message": ran[0].stderr[-2000:]}]
        body["status"] = {"conditions": conditions}

    cluster.act = act
    with running(cluster) as url:
        yield cluster, url


def test_what_a_trainjob_runs_gives_the_model_that_torchrun_gives(
    tmp_path: Path,
    sets: TaskSets,
    application: Application,
    by_hand: dict[str, str],
    operator: tuple[Cluster, str],
) -> None:
    content = application.model_dump(mode="json")
    content["cluster"] |= {"train_on": "trainjob", "environment": {"MLFLOW_DISABLE_TELEMETRY": "true"}}
    application = parse_application(content, "tests")
    stage = plan_model(
        sets.train, sets.validation, Workspace(str(tmp_path), application.name).model(""), application, AS_OF
    )
    arguments = ["--workspace", str(tmp_path), "--train", sets.train, "--validation", sets.validation]
    arguments += ["--date", AS_OF.isoformat()]
    _, url = operator
    train_job.launch(api(url), application, stage.fingerprint, arguments, Limits(poll=0.05)).run()
    assert files(tmp_path) == by_hand
    assert stage.finished() is not None
