"""Stores whose network or service misbehaves: a publish arrives whole or the old release serves, and no fault is read
as a cold member.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import boto3
import numpy as np
import pytest

from limaml.config import Application
from limaml.errors import ConfigError, StoreError
from limaml.online import dynamodb_table, push
from limaml.online.dynamodb_store import DynamoBackend
from limaml.online.overlay import open_generation
from limaml.online.redis_store import RedisBackend
from limaml.online.release import collect_garbage, publish, rollback
from limaml.online.store import Release, open_store, prepare_store
from tests.limaml.online.conftest import AS_OF, Files
from tests.limaml.online.faulty import FaultyDynamoDB, FaultyNetwork
from tests.limaml.online.servers import RedisServer

# The rates between which a default run looks only at the worst.
RATES = [pytest.param(0.01, marks=pytest.mark.heavy), pytest.param(0.1, marks=pytest.mark.heavy), 0.5]
TASKS = 200


@pytest.fixture(autouse=True)
def _many_small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DynamoBackend, "page_bytes", 200)
    monkeypatch.setattr(RedisBackend, "page_bytes", 200)
    monkeypatch.setattr(push, "BUFFER_ROWS", 60)


@pytest.fixture
def dynamodb(s3_endpoint: str) -> Iterator[FaultyDynamoDB]:
    with FaultyDynamoDB(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def network(redis_server: RedisServer) -> Iterator[FaultyNetwork]:
    with FaultyNetwork(redis_server.port) as proxy:
        yield proxy


def first_release(files: Files, url: str, application: Application) -> Release:
    embeddings = files.embeddings(tasks=TASKS)
    return publish(embeddings, url, application, files.decision(embeddings))


def publish_all_or_nothing(
    files: Files, faulty: str, sound: str, application: Application, first: Release
) -> Release | None:
    """Publish the next day through a faulty way and look at what is there by a sound one."""
    embeddings = files.embeddings(AS_OF + timedelta(days=1), tasks=TASKS)
    store = open_store(sound, application.name)
    try:
        release = publish(embeddings, faulty, application)
    except StoreError:
        # A flip whose answer was lost may have been done: then it was done whole.
        release = store.current()
        assert release is not None
        if release == first:
            assert open_generation(store, first.generation).get(["1", "2"]).found.all()
            return None
    assert (release.number, release.tasks) == (2, TASKS)
    assert store.current() == release
    store.audit(release.generation)
    rows = files.rows(embeddings)
    found = open_generation(store, release.generation).get(rows["task_id"].to_pylist())
    expected = np.array(rows["embedding"].to_pylist(), np.float32).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found.embedding, expected)
    assert found.found.all()
    return release


def read_through_faults(files: Files, faulty: str, application: Application, release: Release, reads: int) -> int:
    """How many reads ended in an error; none of the others missed a member."""
    ids = files.rows(files.embeddings(release.as_of, tasks=TASKS))["task_id"].to_pylist()
    store, errors = open_store(faulty, application.name), 0
    reader = None
    for number in range(reads):
        asked = [ids[(7 * number + each) % TASKS] for each in range(20)]
        try:
            reader = reader or open_generation(store, release.generation)
            assert reader.get([*asked, "nobody"]).found.tolist() == [True] * 20 + [False]
        except StoreError:
            errors += 1
    return errors


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("fault", ["unprocessed", "throttled", "lost", "reordered", "duplicated"])
def test_dynamodb_under_faults(
    files: Files, dynamodb_url: str, dynamodb: FaultyDynamoDB, application: Application, fault: str, rate: float
) -> None:
    first = first_release(files, dynamodb_url, application)
    faulty = f"{dynamodb_url.partition('?')[0]}?endpoint={dynamodb.endpoint}"
    dynamodb.fault, dynamodb.rate = fault, rate
    # Trying again gets over each of these faults; a read has little time for it and may fail, but not miss anyone.
    release = publish_all_or_nothing(files, faulty, dynamodb_url, application, first)
    assert release is not None
    assert read_through_faults(files, faulty, application, release, reads=10) <= 3
    assert dynamodb.seen[fault] > 0 or rate < 0.1


@pytest.mark.parametrize("fault", ["unprocessed", "throttled", "lost"])
def test_dynamodb_that_does_nothing_any_more_is_a_clear_failure(
    files: Files,
    dynamodb_url: str,
    dynamodb: FaultyDynamoDB,
    application: Application,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dynamodb_table, "READ_SECONDS", 0.3)
    monkeypatch.setattr(dynamodb_table, "WRITE_SECONDS", 0.6)
    first = first_release(files, dynamodb_url, application)
    faulty = f"{dynamodb_url.partition('?')[0]}?endpoint={dynamodb.endpoint}"
    reader = open_generation(open_store(faulty, application.name), first.generation)
    dynamodb.fault, dynamodb.rate = fault, 1.0
    assert publish_all_or_nothing(files, faulty, dynamodb_url, application, first) is None
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"can't read pages in DynamoDB table .* within 0 s"):
        reader.get(["1"])
    assert time.monotonic() - started < 3
    dynamodb.fault = ""
    assert reader.get(["1"]).found.all()
    assert publish_all_or_nothing(files, faulty, dynamodb_url, application, first) is not None


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("fault", ["refused", "lost", "stalled"])
def test_redis_under_faults(
    files: Files, redis_url: str, network: FaultyNetwork, application: Application, fault: str, rate: float
) -> None:
    first = first_release(files, redis_url, application)
    faulty = f"redis://127.0.0.1:{network.port}/0?socket_timeout=0.1"
    network.fault, network.rate = fault, rate
    # Half of all requests lost is more than trying again gets over: then the old release serves.
    release = publish_all_or_nothing(files, faulty, redis_url, application, first)
    assert release is not None or rate > 0.01
    errors = read_through_faults(files, faulty, application, release or first, reads=10)
    # Beyond that, too little gets through even of a new connection's first words.
    assert errors <= 3 or rate > 0.1
    assert network.seen[fault] > 0 or rate < 0.1
    network.fault = ""
    if release is None:
        assert publish_all_or_nothing(files, faulty, redis_url, application, first) is not None
    assert rollback(open_store(faulty, application.name)).generation == first.generation


def test_a_real_redis_stopped_and_started_underneath_a_reader(
    files: Files, tmp_path: Path, application: Application
) -> None:
    with RedisServer(tmp_path) as server:
        release = first_release(files, server.url, application)
        store = open_store(server.url, application.name)
        reader = open_generation(store, release.generation)
        ids = [str(number) for number in range(1, 21)]
        seen: list[str] = []

        def read() -> None:
            while "stop" not in seen:
                try:
                    found = reader.get(ids).found
                    seen.append("found" if found.all() else "missing")
                except StoreError:
                    seen.append("error")

        server.client().save()
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read)
            for _ in range(2):
                time.sleep(0.2)
                server.stop()
                assert "found" in seen
                with pytest.raises(StoreError, match="can't read"):
                    store.current()
                server.start()
                del seen[:]
                assert store.current() == release
                time.sleep(0.2)
                assert "found" in seen
            seen.append("stop")
            reading.result()
        assert set(seen) <= {"found", "error", "stop"}
        # Started again without what it held, it knows no one, and says so.
        server.stop()
        (tmp_path / "dump.rdb").unlink()
        server.start()
        with pytest.raises(StoreError, match="the store lost or evicted it"):
            reader.get(ids)
        assert store.current() is None


def test_redis_that_would_evict_embeddings_is_refused(files: Files, tmp_path: Path, application: Application) -> None:
    with RedisServer(tmp_path, "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as server:
        with pytest.raises(StoreError, match="maxmemory-policy is allkeys-lru, which evicts embeddings"):
            first_release(files, server.url, application)
        server.client().config_set("maxmemory-policy", "noeviction")
        assert first_release(files, server.url, application).number == 1


def test_redis_without_memory_left_keeps_the_old_release(
    files: Files, tmp_path: Path, application: Application
) -> None:
    with RedisServer(tmp_path) as server:
        first = first_release(files, server.url, application)
        server.client().config_set("maxmemory", 1)
        assert publish_all_or_nothing(files, server.url, server.url, application, first) is None
        server.client().config_set("maxmemory", 0)
        assert publish_all_or_nothing(files, server.url, server.url, application, first) is not None


def test_a_table_is_made_through_faults_and_then_expires_what_should(
    s3_endpoint: str, dynamodb: FaultyDynamoDB, dynamodb_url: str
) -> None:
    url = f"{dynamodb_url.partition('?')[0]}-more?endpoint={dynamodb.endpoint}"
    dynamodb.fault, dynamodb.rate = "lost", 0.5
    prepare_store(url)
    assert prepare_store(url) is False
    client = boto3.client("dynamodb", region_name="us-east-1", endpoint_url=s3_endpoint)
    found = client.describe_time_to_live(TableName=url.partition("?")[0].rpartition("/")[2])
    assert found["TimeToLiveDescription"] == {"AttributeName": "expires_at", "TimeToLiveStatus": "ENABLED"}


def test_pages_expire_by_themselves_where_that_is_asked_for(
    files: Files, dynamodb_url: str, s3_endpoint: str, application: Application
) -> None:
    expiring = f"{dynamodb_url}&expire_days=45"
    first = first_release(files, expiring, application)
    publish(files.embeddings(AS_OF + timedelta(days=1), tasks=TASKS), expiring, application)
    store = open_store(expiring, application.name)
    assert collect_garbage(store, 1) == [first.generation]
    assert store.sealed(first.generation) is None
    client = boto3.client("dynamodb", region_name="us-east-1", endpoint_url=s3_endpoint)
    table = dynamodb_url.partition("?")[0].rpartition("/")[2]
    items = list(client.get_paginator("scan").paginate(TableName=table).search("Items[]"))
    left = [item for item in items if first.generation in item["place"]["S"]]
    assert len(left) > 10
    in_days = [(int(item["expires_at"]["N"]) - time.time()) / 86_400 for item in left]
    assert all(44.9 < each <= 45 for each in in_days)
    assert not [item for item in items if item["kind"]["S"].startswith((f"chunks:{first.generation}", "plans#2026013"))]
    for option in ("expire_days=7", "expire_days=x", "color=red"):
        with pytest.raises(ConfigError, match=r"expire_days|no option 'color'"):
            open_store(f"{dynamodb_url}&{option}", application.name)
