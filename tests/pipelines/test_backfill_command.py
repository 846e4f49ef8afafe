"""`limaml backfill`: which dates, and where they are made up for."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from limaml import storage
from limaml.workspace import Workspace
from pipelines import submit
from tests.conftest import SMALL
from tests.pipelines.conftest import Command
from tests.pipelines.fake_kubeflow import FakeKubeflow

RANGE = ["--from", "2026-01-18", "--to", "2026-01-21"]


@pytest.fixture
def app(tmp_path: Path) -> str:
    """An application whose workspace has refreshed one date, and failed at another."""
    root = f"file://{tmp_path}/w"
    for day, state in ((19, "succeeded"), (20, "failed")):
        place = Workspace(root, "small").run(date(2026, 1, day), "refresh")
        for name, content in (("summary", {}), ("state", {"state": state, "run_id": "r"})):
            storage.write_bytes(storage.join(place, f"{name}.json"), json.dumps(content).encode())
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"cluster": {"workspace": root}}))
    return str(file)


def _json(ended: tuple[int, str, str]) -> dict[str, Any]:
    assert ended[0] == 0, ended[2]
    return json.loads(ended[1])


def test_a_dry_run_names_the_dates_that_are_missing(nothing_around: None, app: str, limaml: Command) -> None:
    result = _json(limaml("backfill", "--app", app, *RANGE, "--dry-run", "--json"))
    assert result["missing"] == ["2026-01-18", "2026-01-20", "2026-01-21"]
    assert result["finished"] == 1


def test_on_kubeflow_it_is_a_run_of_the_pipeline(
    server: FakeKubeflow, app: str, limaml: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.05)
    server.on_create = lambda kind, item: item.update(state="SUCCEEDED") if kind == "runs" else None
    given = ["--app", app, *RANGE, "--submit", "--wait", "--host", server.host, "--json"]
    result = _json(limaml("backfill", *given))
    (run,) = server.items("runs")
    assert run["runtime_config"]["parameters"] == {"first_date": "2026-01-18", "last_date": "2026-01-21"}
    assert result["pipeline"] == "small-backfill"
    assert result["state"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--from", "2026-01-21", "--to", "2026-01-18"], "must not be after the last"),
        (["--from", "2025-01-01", "--to", "2026-01-18"], "give at most"),
        (["--from", "2026-01-18", "--to", "2999-01-18"], "yet to come"),
        ([*RANGE, "--submit", "--dry-run"], "not with --dry-run"),
        ([*RANGE, "--wait"], "--submit goes with --wait"),
        ([*RANGE, "--data", "/no/such/data"], "nothing there"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    server: FakeKubeflow, app: str, limaml: Command, arguments: list[str], says: str
) -> None:
    code, _, err = limaml("backfill", "--app", app, "--host", server.host, *arguments)
    assert code == 2
    assert says in err
    assert not server.requests


def test_without_a_workspace_it_asks_for_one(nothing_around: None, limaml: Command) -> None:
    code, _, err = limaml("backfill", "--app", "ptap", *RANGE)
    assert code == 2
    assert "give --workspace, or set cluster.workspace" in err
