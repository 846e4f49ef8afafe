"""SIGKILL in the middle of every step of a run, then a rerun: it ends as if nothing had happened.

One workspace is killed once in each step, in order, so every rerun goes on from what the one before left. What it ends
with is held against a workspace nobody disturbed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from limaml.config import load_application
from limaml.data.simulator import simulate
from limaml.data.world import SimulationSpec

LIMAML = Path(sys.executable).parent / "limaml"
DATES = {"train": "2026-01-18", "refresh": "2026-01-20"}
STEPS = {
    "train": (
        "Validate data",
        "Group train tasks",
        "Group validation tasks",
        "Group test tasks",
        "Train theta",
        "Generate the challenger's embeddings",
        "Gate the pair",
        "Publish the release",
        "Close the run",
    ),
    "refresh": (
        "Validate data",
        "Group recent tasks",
        "Generate embeddings",
        "Publish the release",
        "Monitor drift and staleness",
        "Close the run",
    ),
}
# A step spends this long on imports before it touches the workspace.
IMPORTS_SECONDS = (0.5, 6.0)


class Bed:
    """One application and one log; runs go to a workspace below."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        content = load_application("ptap").model_dump(mode="json")
        content["training"] |= {"epochs": 3, "threads": 1, "checkpoint_steps": 1}
        content["grouping"] |= {"buckets": 2, "shards": 2}
        content["gate"] |= {"minimum_rows": 1, "minimum_gain_over_vanilla": -1, "minimum_gain_over_intercept": -1}
        content["gate"] |= {"maximum_calibration_error": 1}
        (folder / "small.yaml").write_text(yaml.safe_dump(content))
        simulate(f"{folder}/data", load_application("ptap"), SimulationSpec(members=150, items=100, days=19))

    def start(self, kind: str, workspace: Path) -> subprocess.Popen[str]:
        places = ["--app", "small.yaml", "--data", "data", "--workspace", str(workspace), "--date", DATES[kind]]
        return subprocess.Popen(
            [str(LIMAML), "run", kind, *places, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def finish(self, kind: str, workspace: Path) -> dict[str, Any]:
        """Run to the end; it must end well."""
        process = self.start(kind, workspace)
        out, err = process.communicate(timeout=800)
        assert process.returncode == 0, err
        assert process.pid not in _groups(), "a step outlived its run"
        return json.loads(out)

    def kill(self, kind: str, workspace: Path, step: str, delay: float) -> bool:
        """Kill the run and its steps `delay` seconds after a step began; whether they still ran then."""
        process = self.start(kind, workspace)
        assert process.stdout is not None
        assert process.stderr is not None
        threading.Thread(target=process.stdout.read, daemon=True).start()
        lines = iter(process.stderr.readline, "")
        heard = next((line for line in lines if line.strip() == f"── {step}"), None)
        assert heard is not None, f"step {step!r} was never announced"
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        killed = process.wait(30) == -signal.SIGKILL
        deadline = time.monotonic() + 30
        while process.pid in _groups():
            assert time.monotonic() < deadline, "a step outlived its run"
            time.sleep(0.1)
        drain.join(30)
        return killed


def _groups() -> set[int]:
    """Process groups that still have a living process."""
    groups = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            groups.add(int(group))
    return groups


def _made(workspace: Path) -> dict[str, Any]:
    """What a workspace holds, as far as it does not name the workspace: sums of files, the decision, releases."""
    root = workspace / "ptap"
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("manifest.json")):
        place = str(path.parent.relative_to(root))
        body = json.loads(path.read_text())
        files = {
            entry["path"].rpartition("/data/")[2]: entry["sha256"]
            for entry in body["files"]
            if entry["path"].endswith((".parquet", ".safetensors"))
        }
        found[place] = (body["kind"], body["counts"], files)
        if body["kind"] == "decision":
            found["table"] = body["details"]["table"]
    for name in ("current.json", "releases"):
        for path in sorted((root / "store" / "ptap").glob(f"{name}/*" if name == "releases" else name)):
            release = json.loads(path.read_text())
            release["model_uri"] = release["model_uri"].rpartition("/")[2]
            for volatile in ("published_at", "model_digest", "embeddings_digest", "generation"):
                release.pop(volatile)
            found[path.name] = release
    return found


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    return Bed(tmp_path_factory.mktemp("killed"))


def _leftovers(workspace: Path) -> Iterator[str]:
    for path in workspace.rglob("*"):
        if path.name.endswith((".partial", ".old", ".tmp", ".takeover")) or ".making" in path.name:
            yield str(path)
    yield from map(str, workspace.glob("*/leases/*"))


def _kill_then_finish(bed: Bed, kind: str, workspace: Path, steps: tuple[str, ...], seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    delays = {step: rng.uniform(*IMPORTS_SECONDS) for step in steps}
    killed = [step for step in steps if bed.kill(kind, workspace, step, delays[step])]
    assert killed, f"every run ended before it could be killed: {delays}"
    return bed.finish(kind, workspace)


@pytest.mark.timeout(900)
def test_killed_while_it_trains_and_publishes(bed: Bed, tmp_path: Path) -> None:
    result = _kill_then_finish(bed, "train", tmp_path / "w", ("Train theta", "Publish the release"), seed=1)
    assert result["promoted"] is True
    assert result["release"]["number"] == 1
    assert not list(_leftovers(tmp_path / "w"))


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1])
def test_killed_in_every_step_it_ends_as_if_nothing_had_happened(bed: Bed, tmp_path: Path, seed: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for kind, steps in STEPS.items():
        expected = bed.finish(kind, whole)
        result = _kill_then_finish(bed, kind, broken, steps, seed)
        assert set(result) == set(expected)
        assert _made(broken) == _made(whole)
        assert not list(_leftovers(broken))
