"""Generation and push by several pods, component by component: what one pod makes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kfp import dsl

from components.generate_embeddings import generate_embeddings
from components.generate_part import generate_part
from components.plan_embeddings import plan_embeddings
from components.plan_push import plan_push
from components.push_embeddings import push_embeddings
from components.push_part import push_part
from limaml.config import Application, parse_application
from limaml.manifest import read_manifest
from limaml.online import embeddings
from limaml.online import push as pushing
from limaml.online.release import publish
from limaml.online.store import open_store
from limaml.workspace import Workspace
from tests.components.test_refresh import NEXT
from tests.limaml.online.conftest import Files
from tests.limaml.online.servers import RedisServer
from tests.limaml.online.test_delta import FIRST, Days

SHARDS = {"grouping": {"shards": 7, "buckets": 8}}


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def days(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Days:
    """Everything up to the first day's release, in Redis."""
    monkeypatch.setattr(pushing, "BUFFER_ROWS", 2)
    redis.from_url(redis_url).flushall()
    days = Days.make(tmp_path, SHARDS | {"store": {"url": redis_url, "keep_days": 0}, "cluster": {"fan_out": 3}})
    uri = Workspace(str(tmp_path / "w"), days.application.name).embeddings("m1", FIRST)
    embeddings.generate_embeddings(days.model, days.tasks(FIRST), uri, days.application, FIRST)
    publish(uri, redis_url, days.application, Files(tmp_path, days.application).decision(uri))
    return days


@pytest.fixture
def outputs(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make(folder: str, **kinds: type) -> dict[str, Any]:
        (tmp_path / folder).mkdir()
        return {name: kind(name=name, uri=str(tmp_path / folder / name)) for name, kind in kinds.items()}

    return make


def test_three_pods_make_the_delta_and_the_release_that_one_makes(
    days: Days, outputs: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    text, workspace = days.application.model_dump_json(), str(tmp_path / "w")
    dated = (text, workspace, NEXT.isoformat())
    tasks = days.tasks(NEXT)
    parts = plan_embeddings.python_func(*dated, tasks)
    assert len(parts) == 3
    made = [generate_part.python_func(text, workspace, part) for part in parts]
    artifacts = outputs("generated", manifest=dsl.Artifact, metrics=dsl.Metrics)
    uri = generate_embeddings.python_func(*dated, tasks, parts=made, **artifacts)
    joined = read_manifest(uri)

    first = Workspace(workspace, days.application.name).embeddings("m1", FIRST)
    alone = embeddings.generate_embeddings(days.model, tasks, str(tmp_path / "alone"), days.application, NEXT, first)
    assert 0 < joined.details["changed"] < joined.counts["tasks"]
    assert (joined.digest, joined.files) == (alone.digest, alone.files)
    assert len(plan_embeddings.python_func(*dated, tasks)) == 1, "finished: nothing to divide"

    writers = plan_push.python_func(*dated, uri)
    assert len(writers) == 3
    rows = [int(push_part.python_func(text, workspace, part)) for part in writers]
    assert sum(rows) == joined.details["changed"] + joined.details["removed"]
    assert min(rows) > 0
    artifacts = outputs("pushed", manifest=dsl.Artifact, metrics=dsl.Metrics, summary=dsl.Markdown)
    name = push_embeddings.python_func(*dated, uri, parts=["1"], **artifacts)
    store = open_store(days.application.store.url, days.application.name)
    current = store.current()
    assert current is not None
    assert current.name == name
    assert current.embeddings_digest == alone.digest
    (again,) = plan_push.python_func(*dated, uri)
    assert json.loads(again)["plan"] == ""
    assert push_part.python_func(text, workspace, again) == "0"


def test_a_damaged_day_before_is_carried_over_by_none(days: Days, tmp_path: Path) -> None:
    workspace = str(tmp_path / "w")
    first = Workspace(workspace, days.application.name).embeddings("m1", FIRST)
    damaged = Path(first.removeprefix("file://")) / "shard=006.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    text = days.application.model_dump_json()
    parts = plan_embeddings.python_func(text, workspace, NEXT.isoformat(), days.tasks(NEXT))
    assert {json.loads(part)["previous"] for part in parts} == {""}


def test_a_single_pod_is_the_default(application: Application) -> None:
    assert application.cluster.fan_out == 1
    assert parse_application(application.model_dump() | {"cluster": {"fan_out": 2}}, "tests").cluster.fan_out == 2
