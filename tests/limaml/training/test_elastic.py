"""A process that is killed, and what its peers and those started after them make of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from pyarrow.fs import FileSelector
from safetensors.torch import load, load_file

from limaml import storage
from limaml.config import Application
from limaml.errors import ConfigError, DataError
from limaml.manifest import read_manifest
from limaml.training.checkpoints import parse_checkpoint, read_checkpoint
from limaml.training.distributed import processes
from limaml.training.registry import Registry
from tests.limaml.training.planted import APPLICATION, AS_OF, TaskSets, group_all, interactions
from tests.limaml.training.workers import fit_together, together, train_together

TORCHRUN, LIMAML = (Path(sys.executable).parent / name for name in ("torchrun", "limaml"))
STEPS = 4  # of an epoch: 100 tasks, two processes, 16 tasks each


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> TaskSets:
    return group_all(tmp_path_factory.mktemp("elastic"), log=interactions(members=100))


def changed(**changes: object) -> Application:
    settings = {"epochs": 3, "tasks_per_batch": 16, "checkpoint_steps": 1} | changes
    return APPLICATION.model_copy(update={"training": APPLICATION.training.model_copy(update=settings)})


def model(root: str) -> str:
    (name,) = storage.list_directories(root)
    return storage.join(root, name)


def hidden(root: str) -> list[str]:
    fs, path = storage.filesystem(root)
    found = [info.path[len(path) :] for info in fs.get_file_info(FileSelector(path, recursive=True))]
    return [name for name in found if "/." in name]


@pytest.mark.parametrize("base", ["joint", "frozen"])
def test_after_a_kill_all_go_on_from_the_bucket_s_checkpoint_to_the_same_bits(
    sets: TaskSets, tmp_path: Path, s3: str, base: str
) -> None:
    application = changed(base=base)
    root, whole, tracking = f"{s3}/model", f"{tmp_path}/whole", f"sqlite:///{tmp_path}/mlflow.db"
    registry = Registry(tracking, APPLICATION.name)
    # Killed in the second algorithm's second epoch: one network is finished, of the other a better one is kept.
    codes = together(2, train_together, sets, application, root, tracking, 3 * STEPS + STEPS + 3)
    assert codes[1] == -signal.SIGKILL
    assert codes[0], "the first process ended well without its peer"
    assert storage.list_directories(root) == []
    (name,) = (name for name in hidden(root) if name.endswith("/limaml.safetensors"))
    position = parse_checkpoint(read_checkpoint(root + name), root + name)[1]
    assert (position["epoch"], position["batch"], position["processes"]) == (1, 2, 2)

    assert together(2, train_together, sets, application, root, tracking) == [0, 0]
    assert hidden(root) == []
    assert together(2, train_together, sets, application, whole, tracking) == [0, 0]
    for file in ("theta.safetensors", "vanilla.safetensors"):
        ours, expected = (load(storage.read_bytes(storage.join(model(place), file))) for place in (root, whole))
        assert {key: value.tolist() for key, value in ours.items()} == {k: v.tolist() for k, v in expected.items()}

    # Once more: nothing is trained, which every process is told. One process logged the run, once.
    assert together(2, train_together, sets, application, root, tracking, 1) == [0, 0]
    version = read_manifest(model(root)).details["model_version"]
    (run,) = registry.client.search_runs([registry.experiment_id], f"params.model_version = '{version}'")
    assert run.data.params["processes"] == "2"


def test_another_number_of_processes_goes_on_at_the_same_share_of_the_epoch(sets: TaskSets, tmp_path: Path) -> None:
    killed = tmp_path / "2"
    killed.mkdir()
    codes = together(2, fit_together, sets, changed(epochs=6), "limaml", killed, STEPS + 3)
    assert codes[1] == -signal.SIGKILL
    written = str(killed / "checkpoint")
    step = parse_checkpoint(read_checkpoint(written), written)[1]["step"]
    # The other process may not have come to write down the last step.
    assert step in (STEPS + 1, STEPS + 2)
    for world, steps in ((1, 7), (3, 3)):
        place = tmp_path / str(world)
        shutil.copytree(killed, place)
        assert together(world, fit_together, sets, changed(epochs=6), "limaml", place) == [0] * world
        place_now = str(place / "checkpoint")
        tensors, position = parse_checkpoint(read_checkpoint(place_now), place_now)
        assert (position["processes"], position["steps"]) == (world, steps)
        assert position["step"] == 6 * steps
        # The epoch that was half done is done by half again: what was left of it, at the new number of steps.
        made = {int(tensors["optimizer"][name]) for name in tensors["optimizer"] if name.endswith(".step")}
        assert made == {step + (steps - (step - STEPS) * steps // STEPS) + 4 * steps}
        histories = [json.loads((place / f"{rank}.json").read_text()) for rank in range(world)]
        assert [epoch["number"] for epoch in histories[0]] == [1, 2, 3, 4, 5, 6]
        assert max(epoch["validation_auc"] for epoch in histories[0]) > 0.7
        weights = [load_file(place / f"{rank}.safetensors") for rank in range(world)]
        assert all(weight[name].equal(weights[0][name]) for weight in weights for name in weight)


def test_a_checkpoint_cut_short_is_told(tmp_path: Path, sets: TaskSets) -> None:
    assert together(1, fit_together, sets, changed(epochs=1), "limaml", tmp_path) == [0]
    whole = (tmp_path / "checkpoint").read_bytes()
    uri = str(tmp_path / "checkpoint")
    for part in (whole[:-1], whole[:20], b"x" * 100):
        with pytest.raises(DataError, match=r"checkpoint: not a whole checkpoint .* delete it"):
            parse_checkpoint(part, uri)


def test_half_an_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="MASTER_ADDR, MASTER_PORT is not set"), processes():
        pass


@pytest.mark.heavy
def test_torchrun_restarts_the_command_after_a_kill(sets: TaskSets, tmp_path: Path) -> None:
    content = changed(epochs=60, patience=60).model_dump(mode="json")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))
    places = ["--workspace", str(tmp_path / "w"), "--train", sets.train, "--validation", sets.validation]
    command = [str(TORCHRUN), "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "--no-python"]
    command += [str(LIMAML), "train", "--app", str(tmp_path / "small.yaml"), *places, "--date", str(AS_OF), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(command, env=environment, **pipes)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("w/*/model/.*.checkpoints/limaml.safetensors")):
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline, "no checkpoint of the second algorithm"
        time.sleep(0.05)
    (second,) = (p for p in psutil.Process(run.pid).children() if p.environ().get("RANK") == "1")
    second.kill()
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    result = json.loads(out)
    assert "train limaml: continuing at epoch" in err
    assert result["validation_auc"]["limaml"] > 0.7
    assert not list(tmp_path.glob("w/*/model/.*"))
