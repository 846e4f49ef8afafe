"""A disk that fills while a stage writes: one clear error, nothing half-written, and a rerun that ends well."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from limaml.config import parse_application
from limaml.data.tasks import group_tasks
from limaml.data.validation import validate
from limaml.errors import LimamlError, StorageError, StoreError
from limaml.online.embeddings import generate_embeddings
from limaml.online.release import publish
from limaml.online.store import open_store
from limaml.training.registry import Registry
from limaml.training.train import train_model
from limaml.windows import TaskSplit, Window
from tests.conftest import SMALL
from tests.limaml.data.validation_data import WINDOW, make_application, write_clean
from tests.limaml.online.chain import AS_OF, START, build_chain, with_embeddings
from tests.limaml.online.conftest import Files
from tests.limaml.training.planted import APPLICATION, group_all
from tests.limaml.training.planted import AS_OF as PLANTED_AS_OF

PAGE = 4096
# `work(place, variant)` runs a stage into `place` and returns what it made, as something to compare.
Work = Callable[[Path, int], object]


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / "w"

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    def fill(self, free: int) -> None:
        """Leave room for `free` bytes."""
        state = os.statvfs(self.path)
        self.resize((state.f_blocks - state.f_bfree) * state.f_frsize + free)

    def content(self) -> dict[str, str]:
        """Sum of every file a reader would see."""
        return {
            str(path.relative_to(self.path)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(self.path).parts)
        }


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system needs root and CAP_SYS_ADMIN")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def _group(inputs: Path) -> Work:
    chain = build_chain(inputs, parse_application(SMALL, "tests"))
    split = TaskSplit(name="recent", window=Window(start=START, end=AS_OF + timedelta(days=1)), boundary=AS_OF)

    def work(place: Path, variant: int) -> object:
        task = chain.application.task.model_copy(update={"max_samples": 16 - variant})
        application = chain.application.model_copy(update={"task": task})
        return group_tasks(str(inputs / "validated"), str(place / "tasks"), application, split).digest

    return work


def _embed(inputs: Path) -> Work:
    chain = build_chain(inputs, parse_application(SMALL, "tests"))

    def work(place: Path, variant: int) -> object:
        application = with_embeddings(chain.application, finetune_steps=1 + variant)
        return generate_embeddings(chain.model, chain.tasks, str(place / "embeddings"), application, AS_OF).digest

    return work


def _validate(inputs: Path) -> Work:
    data = str(write_clean(inputs))

    def work(place: Path, variant: int) -> object:
        return validate(data, str(place / "validated"), make_application(quarantine_budget=0.1 + variant / 10), WINDOW)

    return lambda place, variant: getattr(work(place, variant), "digest")  # noqa: B009


def _publish(inputs: Path) -> Work:
    application = parse_application(SMALL, "tests")
    files = Files(inputs, application)

    def work(place: Path, variant: int) -> object:
        embeddings = files.embeddings(date(2026, 1, 31) + timedelta(days=variant), tasks=2000)
        release = publish(embeddings, f"lmdb://{place}/store", application, files.decision(embeddings))
        store = open_store(f"lmdb://{place}/store", application.name)
        store.audit(release.generation)
        assert store.current() == release
        return release.model_dump(exclude={"published_at"})

    return work


def _train(inputs: Path) -> Work:
    sets = group_all(inputs)
    tracking = f"sqlite:///{inputs}/mlflow.db"
    Registry(tracking, "small")

    def work(place: Path, variant: int) -> object:
        training = APPLICATION.training.model_copy(update={"seed": variant, "epochs": 1, "checkpoint_steps": 2})
        application = APPLICATION.model_copy(update={"training": training})
        made = train_model(sets.train, sets.validation, str(place / "model"), application, tracking, PLANTED_AS_OF)
        return [(entry.path, entry.sha256) for entry in made.files if entry.path.endswith(".safetensors")]

    return work


@pytest.mark.parametrize(
    ("prepare", "free"),
    [
        pytest.param(_validate, 2 * PAGE, id="validate"),
        pytest.param(_group, 2 * PAGE, id="group"),
        pytest.param(_train, 2 * PAGE, id="train"),
        pytest.param(_embed, 2 * PAGE, id="embed"),
        pytest.param(_publish, 2 * PAGE, id="publish"),
        pytest.param(_publish, 12 * PAGE, id="publish, inside a chunk"),
    ],
)
def test_a_full_disk_keeps_what_was_there_and_a_rerun_ends_well(
    disk: Disk, tmp_path: Path, prepare: Callable[[Path], Work], free: int
) -> None:
    (tmp_path / "inputs").mkdir()
    work = prepare(tmp_path / "inputs")
    work(disk.work, 0)
    before = disk.content()
    disk.fill(free)
    with pytest.raises((StorageError, StoreError)) as caught:
        work(disk.work, 1)
    assert caught.value.exit_code == 5
    assert str(disk.work) in str(caught.value)
    assert "space" in str(caught.value)
    after = disk.content()
    assert {name: after.get(name) for name in before} == before, "what was there is gone"
    assert not [name for name in after.keys() - before.keys() if not name.startswith("w/store/")]
    disk.resize(64 << 20)
    again = work(disk.work, 1)
    assert not list(disk.path.rglob("*.partial"))
    work(tmp_path / "roomy", 0)
    assert again == work(tmp_path / "roomy", 1), "the rerun made something else"


def test_a_full_disk_under_mlflow_is_a_storage_error(disk: Disk) -> None:
    uri = f"sqlite:///{disk.path}/mlflow.db"
    disk.fill(40 * PAGE)
    with pytest.raises(LimamlError, match=r"MLflow at sqlite:///.*mlflow\.db failed: .*full") as caught:
        Registry(uri, "small")
    assert caught.value.exit_code == 5
    assert not (disk.path / "mlflow.db").exists()
    disk.resize(64 << 20)
    Registry(uri, "small")


def test_a_read_only_workspace_is_told_and_a_rerun_ends_well(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    work = _group(tmp_path / "inputs")
    subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True)
    with pytest.raises(StorageError, match=f"can't write file://{disk.work}/tasks: the file system is read-only"):
        work(disk.work, 0)
    subprocess.run(["mount", "-o", "remount,rw", str(disk.path)], check=True)
    assert work(disk.work, 0) == work(tmp_path / "roomy", 0)


def test_a_run_in_a_full_workspace_exits_5(disk: Disk, tmp_path: Path) -> None:
    """The lease is the first thing a run's first step writes."""
    data = write_clean(tmp_path / "data")
    (disk.path / "old").write_bytes(bytes(PAGE))  # a tmpfs of size 0 is one without a limit
    disk.fill(0)
    limaml = Path(sys.executable).parent / "limaml"
    places = ["--app", "ptap", "--data", data, "--workspace", disk.work]
    ended = subprocess.run([str(limaml), "run", "train", *map(str, places), "--json"], capture_output=True, text=True)
    assert ended.returncode == 5, ended.stderr
    assert ended.stdout == ""
    # The step's last line; then that of closing the run, which is the command's own.
    found = [line for line in ended.stderr.splitlines() if line.startswith("ERROR ")]
    assert found[0].startswith(f"ERROR StorageError: can't create file://{disk.work}/ptap/leases/")
    assert all("the disk is full" in line for line in found)
    assert "Traceback" not in ended.stderr
    assert [path.name for path in disk.path.rglob("*") if path.is_file()] == ["old"]
