"""MLflow's own database: made whole or not at all, and readable errors when it can't be written."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from limaml.errors import StorageError
from limaml.training.registry import CHALLENGER, Registry

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([Registry.__module__])


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
    process = _PROCESSES.Process(target=_die_in_a_migration, args=(uri,))
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
