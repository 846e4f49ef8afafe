"""pTap made small and run through Kubeflow's local runner: what other ways to run it are held against."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from limaml import storage
from limaml.config import Application, load_application, parse_application
from limaml.data.simulator import simulate
from limaml.data.world import SimulationSpec
from limaml.manifest import Manifest

LIMAML = Path(sys.executable).parent / "limaml"
DATES = {"train": "2026-01-09", "refresh": "2026-01-10"}
# Data is compared byte by byte; pages and reports name places, which the runs to be compared do not share.
EXACT = (".parquet", ".safetensors")
# A run's own names and times, and what is made from texts that hold a place.
VOLATILE = {"created_at", "published_at", "fingerprint", "inputs", "config_hash", "generation"}


def small_application(store: str = "") -> Application:
    """A few days, one epoch, and a gate that lets everything through."""
    content = load_application("ptap").model_dump(mode="json")
    content["windows"] |= {"train_days": 5, "validation_days": 2, "test_days": 1, "lookback_days": 5}
    content["training"] |= {"epochs": 1, "threads": 1, "device": "cpu"}
    content["grouping"] |= {"buckets": 2, "shards": 2}
    content["gate"] |= {"minimum_rows": 1, "minimum_gain_over_vanilla": -1, "minimum_gain_over_intercept": -1}
    content["gate"] |= {"maximum_calibration_error": 1}
    content["store"] |= {"url": store}
    return parse_application(content, "small")


def simulate_days(data: str) -> None:
    """Ten days of a small world."""
    simulate(data, load_application("ptap"), SimulationSpec(members=120, items=100, days=10))


def run_locally(application: Application, workspace: str, data: str, folder: Path, **variables: str) -> dict[str, Any]:
    """Train, then refresh, by the commands a user types; both must end well. What they say, by kind."""
    path = folder / "application.yaml"
    path.write_text(yaml.safe_dump(application.model_dump(mode="json")))
    said = {}
    for kind, date in DATES.items():
        command = [str(LIMAML), "run", kind, "--app", str(path), "--date", date, "--json"]
        ended = subprocess.run(
            [*command, "--workspace", workspace, "--data", data],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        said[kind] = json.loads(ended.stdout)
    return said


def contents(workspace: str, places: Mapping[str, str]) -> dict[str, Any]:
    """Every manifest below a workspace by its path, without what names where or when it was made.

    A manifest names others by digest, and those name places too: a digest is replaced by what it is the digest of.

    Args:
        workspace: URI of the workspace.
        places: URI or path → the name that stands for it.
    """
    base = storage.filesystem(workspace)[1].rstrip("/") + "/"
    found = [info.path.removeprefix(base) for info in storage.list_files(workspace, "/manifest.json")]
    texts = {path.removesuffix("/manifest.json"): storage.read_bytes(storage.join(workspace, path)) for path in found}
    names = dict(places)
    for path, text in texts.items():
        digest = Manifest.model_validate_json(text).digest
        names |= {digest: path, digest[:16]: path}
    return {path: _comparable(text.decode(), names) for path, text in texts.items()}


def _comparable(text: str, names: Mapping[str, str]) -> dict[str, Any]:
    for volatile in sorted(names, key=len, reverse=True):
        text = text.replace(volatile, names[volatile])
    body = json.loads(text, object_pairs_hook=lambda pairs: {key: value for key, value in pairs if key not in VOLATILE})
    exact = {entry["path"]: entry for entry in body["files"] if PurePosixPath(entry["path"]).suffix in EXACT}
    body["files"] = [exact.get(entry["path"], entry["path"]) for entry in body["files"]]
    return body
