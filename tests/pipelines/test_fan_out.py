"""Generation and push by several pods: in the compiled pipelines, and run on this machine."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from limaml.config import Application, load_application, parse_application
from limaml.data.simulator import simulate
from limaml.data.world import SimulationSpec
from limaml.manifest import read_manifest
from limaml.online.embeddings import generate_embeddings
from limaml.online.store import open_store
from limaml.windows import refresh_split
from limaml.workspace import Workspace
from pipelines.run import run_refresh, run_train
from tests.limaml.online.servers import RedisServer
from tests.pipelines.test_compile import Compiled, _after

TRAINED, REFRESHED = date(2026, 1, 18), date(2026, 1, 19)


def small(cluster: dict[str, Any], url: str) -> Application:
    content: dict[str, Any] = load_application("ptap").model_dump(mode="json")
    content["training"] |= {"epochs": 1, "threads": 1}
    content["grouping"] |= {"buckets": 2, "shards": 5}
    content["gate"] |= {"minimum_rows": 1, "minimum_gain_over_vanilla": -1, "minimum_gain_over_intercept": -1}
    content["gate"] |= {"maximum_calibration_error": 1}
    content["store"] |= {"url": url}
    content["cluster"] |= cluster
    return parse_application(content, "tests")


def loops(compiled: Compiled) -> list[dict[str, Any]]:
    return [task for tasks in compiled.dags() for task in tasks.values() if "parameterIterator" in task]


@pytest.mark.parametrize("kind", ["train", "refresh"])
def test_both_are_divided_where_the_store_takes_several_writers(kind: str) -> None:
    compiled = Compiled(kind, small({"fan_out": 3}, "redis://cache:6379/0"))
    assert [each["iteratorPolicy"]["parallelismLimit"] for each in loops(compiled)] == [3, 3]
    steps = compiled.steps()
    assert {"plan-embeddings", "generate-part", "plan-push", "push-part"} <= steps.keys()
    for planner in ("plan-embeddings", "plan-push"):
        assert steps[planner]["taskInfo"]["name"] == planner, "Kubeflow loses the list of a producer with a title"
    generation, push = (compiled.executor(step) for step in ("generate-part", "push-part"))
    assert compiled.executors[generation]["container"]["resources"]["cpuRequest"] == 2.0
    assert compiled.executors[push]["container"]["resources"]["cpuRequest"] == 1.0
    tasks = {name: task for dag in compiled.dags() for name, task in dag.items()}
    first, second = sorted(name for name, task in tasks.items() if "parameterIterator" in task)
    assert first in _after(tasks, "generate-embeddings")
    assert _after(tasks, "push-embeddings") >= {"generate-embeddings", first, second}


def test_lmdb_takes_one_writer() -> None:
    for url in ("", "lmdb:///data/store"):
        steps = Compiled("refresh", small({"fan_out": 3}, url)).steps()
        assert "generate-part" in steps
        assert "plan-push" not in steps


def test_a_loop_never_lies_in_another() -> None:
    """Kubeflow's local runner gives the inner one wrong items, without a word."""
    steps = Compiled("backfill", small({"fan_out": 3}, "redis://cache:6379/0")).steps()
    assert "generate-part" not in steps
    assert "plan-push" not in steps


def test_one_pod_compiles_to_what_it_was() -> None:
    assert not loops(Compiled("refresh", small({}, "redis://cache:6379/0")))


def test_a_step_that_watches_other_pods_is_small() -> None:
    gpus = {"train_theta": {"gpus": 4, "memory": "64Gi", "timeout_minutes": 600}}
    compiled = Compiled("train", small({"train_on": "trainjob", "nodes": 2, "steps": gpus}, ""))
    container = compiled.executors[compiled.executor("train-theta")]["container"]
    assert container["resources"]["memoryLimit"] == 2.147483648
    assert "accelerator" not in container["resources"]
    assert compiled.pods[compiled.executor("train-theta")]["activeDeadlineSeconds"] == "36000"


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with RedisServer(tmp_path) as server:
        yield server.url


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_a_run_of_three_pods_publishes_what_one_makes(tmp_path: Path, redis_url: str) -> None:
    application, data = small({"fan_out": 3}, redis_url), tmp_path / "data"
    simulate(str(data), load_application("ptap"), SimulationSpec(members=120, items=100, days=19))
    place = Workspace(f"file://{tmp_path}/w", "ptap")
    assert run_train(application, place.root, str(data), TRAINED).error is None
    assert run_refresh(application, place.root, str(data), REFRESHED).error is None

    release, trained = open_store(redis_url, "ptap").releases()
    assert release.as_of == REFRESHED
    before = place.embeddings(trained.model_version, trained.as_of)
    tasks = place.tasks(refresh_split(application.windows, REFRESHED))
    alone = generate_embeddings(release.model_uri, tasks, f"{tmp_path}/alone", application, REFRESHED, before)
    assert read_manifest(place.embeddings(release.model_version, REFRESHED)).digest == alone.digest
    assert release.embeddings_digest == alone.digest
    assert 0 < alone.details["changed"] < alone.counts["tasks"]
