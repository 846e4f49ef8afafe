import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from limaml import storage
from limaml.cli import simulate as commands
from limaml.cli.common import run
from limaml.config import Application, load_application
from limaml.data.simulator import resume_world, simulate
from limaml.data.world import HISTORY_DAYS, SimulationSpec
from limaml.errors import ConfigError, DataError, IntegrityError
from limaml.manifest import verify_files

SPEC = SimulationSpec(members=300, items=100, days=3, chunk=128)


@pytest.fixture(scope="module")
def ptap() -> Application:
    return load_application("ptap")


def read_all(root: Path, dataset: str) -> pa.Table:
    return pa.concat_tables([pq.ParquetFile(path).read() for path in sorted((root / dataset).rglob("*.parquet"))])


def test_a_data_root_has_a_file_a_day_and_a_manifest_that_holds(tmp_path: Path, ptap: Application) -> None:
    manifest = simulate(str(tmp_path), ptap, SPEC)
    days = [(SPEC.start + timedelta(days=i)).isoformat() for i in range(SPEC.days)]
    for dataset in ("interactions", "truth"):
        assert sorted(p.name for p in (tmp_path / dataset).iterdir()) == [f"date={day}" for day in days]
    assert len(list((tmp_path / "visits").iterdir())) == HISTORY_DAYS + SPEC.days
    verify_files(storage.normalize(tmp_path), manifest)
    tables = {name: read_all(tmp_path, name) for name in ("interactions", "truth", "visits", "signups")}
    assert manifest.counts == {
        "rows": tables["interactions"].num_rows,
        "positives": int(tables["interactions"]["label"].to_numpy().sum(dtype=int)),
        "members": tables["signups"].num_rows,
        "visits": tables["visits"].num_rows,
    }
    assert sum(entry.rows or 0 for entry in manifest.files) == sum(table.num_rows for table in tables.values())
    assert str(tables["signups"].schema.field("signup_time").type) == "timestamp[us, tz=UTC]"


def test_the_best_possible_auc_is_that_of_the_truth(tmp_path: Path, ptap: Application) -> None:
    manifest = simulate(str(tmp_path), ptap, SPEC)
    label = read_all(tmp_path, "interactions")["label"].to_numpy()
    truth = read_all(tmp_path, "truth")["true_probability"].to_numpy()
    assert manifest.details["best_auc"] == pytest.approx(roc_auc_score(label, truth), abs=1e-3)


def test_a_rerun_is_recognised_and_another_spec_replaces(tmp_path: Path, ptap: Application) -> None:
    output = tmp_path / "data"
    first = simulate(str(output), ptap, SPEC)
    assert simulate(str(output), ptap, SPEC).created_at == first.created_at
    longer = simulate(str(output), ptap, SPEC.model_copy(update={"days": 4}))
    assert longer.counts["rows"] > first.counts["rows"]
    again = simulate(str(output), ptap, SPEC)
    assert again.digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_killed_run_writes_nothing_and_the_next_one_everything(tmp_path: Path, ptap: Application) -> None:
    output = tmp_path / "data"
    script = (
        "from limaml.config import load_application; from limaml.data.simulator import simulate, SimulationSpec;"
        f"simulate({str(output)!r}, load_application('ptap'), SimulationSpec(members=100_000))"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("date=*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    manifest = simulate(str(output), ptap, SPEC)
    verify_files(storage.normalize(output), manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_resumed_world_plays_the_days_a_longer_simulation_would_have(tmp_path: Path, ptap: Application) -> None:
    simulate(str(tmp_path / "short"), ptap, SPEC)
    simulate(str(tmp_path / "long"), ptap, SPEC.model_copy(update={"days": 5}))
    world = resume_world(str(tmp_path / "short"), ptap)
    for _ in range(2):
        day = world.next_day
        played = pa.concat_tables([chunk.interactions for chunk in world.day(day)])
        assert played.equals(read_all(tmp_path / "long", f"interactions/date={day}"))


def test_a_world_resumes_only_from_what_was_simulated_for_it(tmp_path: Path, ptap: Application) -> None:
    with pytest.raises(DataError, match="has not finished"):
        resume_world(str(tmp_path), ptap)
    simulate(str(tmp_path), ptap, SPEC)
    with pytest.raises(DataError, match="reads invitations"):
        resume_world(str(tmp_path), load_application("pinvite_inviter"))
    state = tmp_path / "world/state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match=r"state\.safetensors"):
        resume_world(str(tmp_path), ptap)


def test_what_no_simulation_wrote_is_never_replaced(tmp_path: Path, ptap: Application) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="files that no stage wrote"):
        simulate(str(tmp_path), ptap, SPEC)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_applications_of_one_kind_share_one_log(tmp_path: Path) -> None:
    for name in ("pinvite_inviter", "pinvite_invitee"):
        simulate(str(tmp_path / name), load_application(name), SPEC)
    logs = [read_all(tmp_path / name, "interactions") for name in ("pinvite_inviter", "pinvite_invitee")]
    assert logs[0].equals(logs[1])


def test_simulate_reaches_s3(s3: str, ptap: Application) -> None:
    manifest = simulate(f"{s3}/data", ptap, SPEC)
    verify_files(f"{s3}/data", manifest)
    assert resume_world(f"{s3}/data", ptap).next_day == SPEC.end


def test_most_of_what_personalization_can_gain_is_the_taste(tmp_path: Path, ptap: Application) -> None:
    manifest = simulate(str(tmp_path), ptap)
    log = read_all(tmp_path, "interactions")
    best = manifest.details["best_auc"]
    assert 0.78 <= best <= 0.83

    label, member = log["label"].to_numpy().astype(float), log["member_id"].to_numpy()
    test = np.arange(len(label)) >= 0.85 * len(label)
    who, what = (
        np.stack([log[f"{side}_x{i}"].to_numpy() for i in range(n)], 1) for side, n in (("member", 8), ("item", 12))
    )
    products = (who[:, :, None] * what[:, None, :]).reshape(len(label), -1)
    features = np.c_[who, what, log["item_popularity"].to_numpy(), products]
    logit = LogisticRegression(C=0.1).fit(features[~test], label[~test]).decision_function(features)
    shown = roc_auc_score(label[test], logit[test])
    assert 0.66 <= shown <= 0.72

    residual = label - 1 / (1 + np.exp(-logit))
    intercept = np.bincount(member[~test], residual[~test]) / (np.bincount(member[~test]) * 0.2 + 10)
    with_intercept = roc_auc_score(label[test], (logit + intercept[member])[test])
    assert with_intercept - shown <= 0.25 * (best - shown)

    # One shrunken Newton step on each member's own tastes, through item features only.
    gain = np.zeros(len(label))
    for one in np.unique(member[test]):
        rows = np.flatnonzero(member == one)
        past = rows[~test[rows]]
        information = 0.2 * what[past].T @ what[past] + 12 * np.eye(12)
        gain[rows] = what[rows] @ np.linalg.solve(information, what[past].T @ residual[past])
    assert roc_auc_score(label[test], (logit + gain)[test]) - shown >= 2 * (with_intercept - shown)


def test_the_command_prints_one_json_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    commands.register(app)
    arguments = ["simulate", "--app", "ptap", "--output", str(tmp_path), "--members", "50", "--days", "2", "--json"]
    monkeypatch.setattr("sys.argv", ["limaml", *arguments, "--start", "2026-02-01", "--seed", "7"])
    assert run(app) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["start"], result["end"]) == ("2026-02-01", "2026-02-03")
    assert result["data"] == storage.normalize(tmp_path)
    assert result["rows"] == read_all(tmp_path, "interactions").num_rows
