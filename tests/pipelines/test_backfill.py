"""A backfill and a look at what is served, on this machine: minutes long, every step a process of its own."""

import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from components.outcome import read_outcome
from limaml.config import Application, load_application, parse_application
from limaml.data.simulator import simulate
from limaml.data.world import SimulationSpec
from limaml.errors import ConfigError, DataError
from limaml.manifest import read_manifest
from limaml.online.store import open_store
from limaml.workspace import Workspace
from pipelines.run import run_backfill, run_monitor, run_refresh, run_train

DAYS = [date(2026, 1, day) for day in (18, 19, 20, 21)]


def _small() -> Application:
    content: dict[str, Any] = load_application("ptap").model_dump(mode="json")
    content["training"] |= {"epochs": 1, "threads": 1}
    content["grouping"] |= {"buckets": 2, "shards": 2}
    content["gate"] |= {"minimum_rows": 1, "minimum_gain_over_vanilla": -1, "minimum_gain_over_intercept": -1}
    content["gate"] |= {"maximum_calibration_error": 1}
    return parse_application(content, "test")


def test_a_range_is_checked_before_anything_runs(tmp_path: Path) -> None:
    application = load_application("ptap")
    with pytest.raises(ConfigError, match="are 365 dates; give at most 92"):
        run_backfill(application, str(tmp_path), str(tmp_path), date(2025, 1, 1), date(2025, 12, 31))
    with pytest.raises(ConfigError, match="the first date must not be after the last"):
        run_backfill(application, str(tmp_path), str(tmp_path), DAYS[1], DAYS[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_a_backfill_goes_on_where_it_ended_and_the_store_only_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    application, data = _small(), tmp_path / "data"
    simulate(str(data), load_application("ptap"), SimulationSpec(members=150, items=100, days=21))
    place = Workspace(f"file://{tmp_path}/w", "ptap")
    store = open_store(place.store_url(application), "ptap")
    trained = run_train(application, place.root, str(data), DAYS[0])
    assert trained.error is None
    assert run_refresh(application, place.root, str(data), DAYS[2]).error is None

    (part,) = (data / "interactions" / f"date={DAYS[2]}").glob("*.parquet")
    hidden = part.rename(tmp_path / part.name)
    stopped = run_backfill(application, place.root, str(data), DAYS[1], DAYS[3])
    assert isinstance(stopped.error, DataError), "a day of the last date's window is missing"
    assert [(day["run_date"], "error" in day) for day in stopped.result["dates"]] == [
        ("2026-01-19", False),
        ("2026-01-21", True),
    ]
    current = store.current()
    assert current is not None
    assert current.as_of == DAYS[2], "a past date took the later day's embeddings away"
    monitored = read_manifest(place.monitoring(DAYS[1]), "monitoring").details
    assert "age_hours" not in {check["name"] for check in monitored["checks"]}, "judged by a release of a later day"

    hidden.rename(part)
    finished = run_backfill(application, place.root, str(data), DAYS[1], DAYS[3])
    assert finished.error is None
    assert finished.result["finished_before"] == 2
    assert [day["run_date"] for day in finished.result["dates"]] == ["2026-01-21"]
    current = store.current()
    assert current is not None
    assert current.as_of == DAYS[3]

    again = run_backfill(application, place.root, str(data), DAYS[1], DAYS[3])
    assert (again.error, again.result["finished_before"], again.result["dates"]) == (None, 3, [])
    for day in DAYS[1:]:
        outcome = read_outcome(place, day, "refresh")
        assert outcome is not None
        assert outcome[1]["state"] == "succeeded"

    watched = run_monitor(application, place.root)
    assert watched.error is None
    assert [alarm["name"] for alarm in watched.result["monitoring"]["alarms"]] == ["age_hours"]
