"""The `limaml` command as people and machines meet it: one JSON line, the documented exit codes, the whole chain."""

import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from limaml import lease
from limaml.config import load_application
from limaml.data.simulator import simulate
from limaml.data.world import SimulationSpec
from limaml.workspace import Workspace

LIMAML = Path(sys.executable).parent / "limaml"
RUN_DATE = "2026-01-18"


def _limaml(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LIMAML), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,  # not the checkout: the installed packages must do
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=800,
    )


def _json(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON object; anything else on standard output fails."""
    lines = ended.stdout.splitlines()
    assert len(lines) == 1, ended.stdout + ended.stderr
    return json.loads(lines[0])


def _last_error(ended: subprocess.CompletedProcess[str]) -> str:
    return [line for line in ended.stderr.splitlines() if line.startswith("ERROR ")][-1]


def _write_app(path: Path, **sections: dict[str, Any]) -> Path:
    """A pTap small enough for a test; `sections` override."""
    content = load_application("ptap").model_dump(mode="json")
    small = {"training": {"epochs": 1, "threads": 1}, "grouping": {"buckets": 2, "shards": 2}}
    for changes in (small, sections):
        for section, values in changes.items():
            content[section] |= values
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated data root: 19 days of 300 members."""
    root = tmp_path_factory.mktemp("simulated") / "data"
    simulate(str(root), load_application("ptap"), SimulationSpec(members=300, items=200, days=19))
    return root


def test_help_names_every_command(tmp_path: Path) -> None:
    ended = _limaml("--help", cwd=tmp_path)
    assert ended.returncode == 0
    for command in ("config", "simulate", "validate", "group", "train", "release", "score", "run", "demo"):
        assert command in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "train", "--app", "nope", "--data", ".", "--workspace", "w"], "ERROR ConfigError: no application"),
        (["run", "train", "--app", "ptap", "--data", "gone", "--workspace", "w"], "ERROR ConfigError: --data gone"),
        (["run", "train", "--app", "ptap", "--data", ".", "--workspace", "ftp://w"], "ERROR ConfigError: 'ftp://w'"),
        (["run", "train", "--app", "ptap", "--data", ".", "--workspace", "w", "--date", "soon"], "soon"),
        (["run", "train", "--app", "ptap"], "--data"),
    ],
)
def test_wrong_arguments_exit_2(arguments: list[str], told: str, tmp_path: Path) -> None:
    ended = _limaml(*arguments, "--json", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "w").exists(), "something was left behind"


def test_bad_rows_exit_3_and_leave_their_page(data: Path, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled"
    shutil.copytree(data / "interactions", spoiled / "interactions")
    (part,) = (spoiled / "interactions" / "date=2026-01-10").glob("*.parquet")
    table = pq.ParquetFile(part).read()
    index = table.column_names.index("label")
    label = pa.array([7] * len(table), table.schema.field("label").type)
    pq.write_table(table.set_column(index, "label", label), part)

    arguments = ("--app", "ptap", "--data", spoiled, "--workspace", tmp_path / "w", "--date", RUN_DATE, "--json")
    ended = _limaml("run", "train", *arguments, cwd=tmp_path)
    assert ended.returncode == 3, ended.stderr
    result = _json(ended)
    assert result["error"] == "DataError"
    assert _last_error(ended).startswith("ERROR DataError: ")
    assert result["message"].splitlines()[0] in _last_error(ended)
    (page,) = result["pages"]
    assert Path(page).name == "validation.html"
    assert Path(page).is_file()
    assert not (tmp_path / "w" / "ptap" / "tasks").exists(), "later steps ran"


def test_a_second_run_on_the_same_day_exits_6(data: Path, tmp_path: Path) -> None:
    place = Workspace(str(tmp_path / "w"), "ptap")
    with lease.hold(place.lease(date.fromisoformat(RUN_DATE)), "the run before"):
        arguments = ("--app", "ptap", "--data", data, "--workspace", place.root, "--date", RUN_DATE)
        ended = _limaml("run", "train", *arguments, "--json", cwd=tmp_path)
    assert ended.returncode == 6
    assert ended.stdout == ""
    assert _last_error(ended).startswith("ERROR LeaseHeld: the run before holds ")
    assert not (tmp_path / "w" / "ptap" / "validated").exists()


@pytest.mark.timeout(900)
def test_the_whole_chain_and_again(data: Path, tmp_path: Path) -> None:
    """Refused, loosened, promoted, refreshed, refreshed again: one workspace, each step on what the last one left."""
    strict = _write_app(tmp_path / "strict.yaml", gate={"minimum_rows": 10_000_000})
    places = ("--data", data, "--workspace", tmp_path / "w", "--json")
    refused = _limaml("run", "train", "--app", strict, *places, "--date", RUN_DATE, cwd=tmp_path)
    assert refused.returncode == 4, refused.stderr
    result = _json(refused)
    assert result["promoted"] is False
    assert any("test rows" in reason for reason in result["reasons"])
    assert "release" not in result
    assert _last_error(refused).startswith("ERROR GateRefused: ")
    assert "test rows" in _last_error(refused)

    app = _write_app(
        tmp_path / "small.yaml",
        gate={
            "minimum_rows": 1,
            "minimum_gain_over_vanilla": -1,
            "minimum_gain_over_intercept": -1,
            "maximum_calibration_error": 1,
        },
    )
    trained = _limaml("run", "train", "--app", app, *places, "--date", RUN_DATE, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    first = _json(trained)
    assert first["run_date"] == RUN_DATE
    assert first["promoted"] is True
    assert first["model_version"] == result["model_version"], "another gate is no reason to train again"
    assert set(first["figures"]["all"]) >= {"vanilla", "vanilla_finetuned", "vanilla_intercept", "limaml"}
    assert first["release"]["model_version"] == first["model_version"]
    assert first["release"]["as_of"] == "2026-01-17", "the pair that was judged is as of the test window's start"
    assert {Path(page).name for page in first["pages"]} >= {"validation.html", "training.html", "decision.html"}
    assert all(Path(page).is_file() for page in first["pages"])

    refreshed = _limaml("run", "refresh", "--app", app, *places, cwd=tmp_path)
    assert refreshed.returncode == 0, refreshed.stderr
    second = _json(refreshed)
    assert second["run_date"] == "2026-01-20", "the day after the newest interactions"
    assert "2026-01-20" in refreshed.stderr, "which date was taken must be said"
    assert second["release"]["number"] == first["release"]["number"] + 1
    assert second["release"]["model_version"] == first["model_version"]
    assert second["embeddings"]["tasks"] == second["release"]["tasks"]
    assert set(second["monitoring"]) == {"healthy", "alarms"}

    again = _limaml("run", "refresh", "--app", app, *places, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert _json(again) == second, "a rerun said something else"
    summary = tmp_path / "w" / "ptap" / "runs" / "2026-01-20_refresh" / "summary.json"
    assert json.loads(summary.read_text()) == second
    shown = _limaml("release", "show", "--app", app, "--workspace", tmp_path / "w", "--json", cwd=tmp_path)
    assert _json(shown)["name"] == second["release"]["name"]
