from datetime import date
from pathlib import Path

import pytest

from limaml.config import Application, Windows, parse_application
from limaml.errors import ConfigError
from limaml.windows import refresh_split, training_splits
from limaml.workspace import Workspace
from tests.conftest import SMALL

AS_OF = date(2026, 1, 31)


def test_everything_of_an_application_lies_below_its_name(tmp_path: Path) -> None:
    place = Workspace(str(tmp_path), "small")
    split = refresh_split(Windows(), AS_OF)
    paths = [
        place.data,
        place.validated(split.window),
        place.tasks(split),
        place.model("v1"),
        place.embeddings("v1", AS_OF),
        place.decision("v1"),
        place.monitoring(AS_OF),
        place.experiment(split.window),
        place.run(AS_OF, "refresh"),
        place.lease(AS_OF),
    ]
    assert all(path.startswith(f"file://{tmp_path}/small/") for path in paths)
    assert len(set(paths)) == len(paths)


def test_one_window_grouped_two_ways_has_two_places(tmp_path: Path) -> None:
    windows = Windows(lookback_days=3, test_days=1)
    place = Workspace(str(tmp_path), "small")
    refresh = refresh_split(windows, AS_OF)
    test = training_splits(windows, AS_OF)["test"].model_copy(update={"name": "recent", "window": refresh.window})
    assert place.tasks(refresh) != place.tasks(test)


def test_the_store_is_in_a_local_workspace_or_configured(tmp_path: Path, application: Application) -> None:
    assert Workspace(str(tmp_path), "small").store_url(application) == f"lmdb://{tmp_path}/small/store"
    with pytest.raises(ConfigError, match=r"store\.url: required"):
        Workspace("s3://bucket/x", "small").store_url(application)
    configured = parse_application(SMALL | {"store": {"url": "lmdb:///elsewhere"}}, "tests")
    assert Workspace("s3://bucket/x", "small").store_url(configured) == "lmdb:///elsewhere"


def test_tracking_is_beside_or_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = Workspace(str(tmp_path), "small")
    assert place.tracking_uri() == f"sqlite:///{tmp_path}/small/mlflow.db"
    assert (tmp_path / "small").is_dir()
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        Workspace("s3://bucket/x", "small").tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert place.tracking_uri() == "http://mlflow:5000"
