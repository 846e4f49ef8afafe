"""MLflow's own database: made whole or not at all, and readable errors when it can't be written."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from limaml.errors import StorageError
from limaml.training.registry import CHALLENGER, PIPELINE_RUN, Registry, git_revision
from tests.forks import FORKS


def _train(registry: Registry, fingerprint: str = "f1") -> None:
    """Log a finished training run."""
    registry.log_training(fingerprint, "m1", {"training.epochs": 2}, {"auc": [0.6, 0.7]}, {"model.json": "{}"}, {})


def test_a_run_that_was_given_is_joined_and_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubeflow begins an MLflow run for every step, logs its own parameters there and ends it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = Registry(uri, "someone").client
    theirs = client.create_experiment("kubeflow", artifact_location=f"file://{tmp_path}/artifacts")
    step = client.create_run(theirs, run_name="Train θ").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", step)
    monkeypatch.setenv(PIPELINE_RUN, "run-1")
    registry = Registry(uri, "small")
    _train(registry)
    _train(registry)
    run = client.get_run(step)
    assert run.info.status == "RUNNING", "Kubeflow ends it"
    assert run.data.params == {"training.epochs": "2"}
    assert [each.value for each in client.get_metric_history(step, "auc")] == [0.6, 0.7]
    assert run.data.tags["limaml.pipeline_run"] == "run-1"
    assert registry.run_of("f1") == step
    assert client.get_experiment_by_name("small") is None, "a second place to look at"
    registered = registry.register("m1", f"file://{tmp_path}/m1", registry.run_of("f1"))
    assert registered.run_id == step


def test_a_run_in_an_experiment_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = Registry(uri, "someone").client
    theirs = client.create_experiment("team", artifact_location=f"file://{tmp_path}/artifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", theirs)
    monkeypatch.delenv(PIPELINE_RUN, raising=False)
    registry = Registry(uri, "small")
    _train(registry)
    (run,) = client.search_runs([theirs])
    assert (run.info.run_id, run.info.status) == (registry.run_of("f1"), "FINISHED")
    assert "limaml.pipeline_run" not in run.data.tags


def test_what_was_given_for_another_server_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", "small")
    _train(registry)
    assert registry.run_of("f1") not in (None, "0" * 32)


def test_a_given_run_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(StorageError, match=r"Run with id=0{32} not found"):
        Registry(uri, "small")


def _die_in_a_migration(tracking_uri: str) -> None:
    """Killed after a migration has made its table and before it has noted that it ran."""
    from alembic.ddl.impl import DefaultImpl

    original = DefaultImpl.create_table

    def create_and_die(self: Any, table: Any, **options: Any) -> None:
        original(self, table, **options)
        if table.name == "trace_info":
            os.kill(os.getpid(), signal.SIGKILL)

    DefaultImpl.create_table = create_and_die
    Registry(tracking_uri, "small")


def test_killed_while_the_database_is_made_the_next_run_makes_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    process = FORKS.Process(target=_die_in_a_migration, args=(uri,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists(), "half a database is visible"
    registry = Registry(uri, "small")
    registry.register("m1", f"file://{tmp_path}/m1", None)
    found = registry.by_alias(CHALLENGER)
    assert found is not None
    assert found.model_version == "m1"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def test_a_place_that_can_not_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"MLflow at sqlite:///.*file/mlflow\.db failed"):
        Registry(f"sqlite:///{tmp_path}/file/mlflow.db", "small")


def test_a_damaged_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"mlflow\.db failed"):
        Registry(f"sqlite:///{tmp_path}/mlflow.db", "small")


def test_the_revision_is_the_images_the_working_trees_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMAML_REVISION", raising=False)
    assert re.fullmatch("[0-9a-f]{40}|unknown", git_revision())
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_revision() == "unknown"
    monkeypatch.setenv("LIMAML_REVISION", "abc")
    assert git_revision() == "abc"
