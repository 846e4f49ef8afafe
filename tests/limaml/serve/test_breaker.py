"""A store that fails is left alone, tried again, and never makes anybody look like a cold member."""

import threading
import time
from pathlib import Path

import pytest

from limaml.online.release import publish
from limaml.online.store import open_store
from limaml.serve.breaker import Breaker
from tests.limaml.online.served import Served
from tests.limaml.online.servers import RedisServer
from tests.limaml.serve.conftest import Client, request_of, running, until, with_serve
from tests.limaml.serve.faults import FaultyStore


def test_opens_after_failures_in_a_row_and_tries_once_in_a_while() -> None:
    now = 0.0
    breaker = Breaker(failures=2, seconds=5, clock=lambda: now)
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert breaker.open
    assert not breaker.allows()
    now = 5.0
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.failed()
    now = 9.9
    assert not breaker.allows()
    now = 10.0
    assert breaker.allows()
    breaker.succeeded()
    assert [breaker.open, breaker.allows(), breaker.allows()] == [False, True, True]


@pytest.mark.parametrize("url", ["", "redis://far.away:6379/0"], ids=["embedded", "remote"])
def test_a_failing_store_is_said_and_survived(served: Served, url: str) -> None:
    store = FaultyStore(open_store(served.url, "small"), url)
    application = with_serve(served.application, breaker_failures=3, breaker_seconds=0.3, deadline_ms=2000)
    with running(application, store) as client:  # type: ignore[arg-type]
        until(lambda: client.get("/v2/health/ready").status == 200)
        good = client.score(request_of(served, 3)).json
        cold = client.score(request_of(served, 55)).json
        store.fail = True
        for _ in range(3):
            reply = client.score(request_of(served, 3))
            assert reply.status == 200
            answer = reply.json
            assert (answer["store"], answer["degraded"], answer["reason"]) == ("unavailable", True, "zero_shot")
            assert answer["age_seconds"] is None
        nobody = request_of(served, 3) | {"features": {}}
        assert client.score(nobody).json["reason"] == "default"
        asked = store.reads
        for _ in range(20):
            assert client.score(request_of(served, 3)).json["store"] == "unavailable"
        assert store.reads == asked, "an open breaker leaves the store alone"
        assert client.metric("limaml_store_breaker_open") == 1
        assert client.get("/v2/health/ready").status == 200, "it answers, so it stays ready"
        outputs = infer(client, served)
        assert (outputs["store"], outputs["degraded"]) == ("unavailable", True)
        # Members that really are cold get the same score, but are not told the store was there.
        assert client.score(request_of(served, 55)).json["candidates"] == cold["candidates"]
        store.fail = False
        time.sleep(0.35)
        until(lambda: client.score(request_of(served, 3)).json["store"] == "ok", 5)
        again = client.score(request_of(served, 3)).json
        assert (again["candidates"], again["degraded"]) == (good["candidates"], False)
        assert client.metric("limaml_store_breaker_open") == 0
        assert client.metric('limaml_degraded_answers_total{store="unavailable"}') >= 24


def infer(client: Client, served: Served) -> dict:
    asked = request_of(served, 3, 1)
    values = {**asked["task"], **asked["features"], **asked["candidates"][0]}
    kinds = {str: "BYTES", int: "INT64", float: "FP64"}
    inputs = [{"name": n, "datatype": kinds[type(v)], "shape": [1], "data": [v]} for n, v in values.items()]
    return client.post("/v2/models/small/infer", {"inputs": inputs}).json["parameters"]


def test_a_store_that_hangs_is_waited_for_until_the_deadline(served: Served) -> None:
    store = FaultyStore(open_store(served.url, "small"), "redis://far.away:6379/0")
    application = with_serve(served.application, deadline_ms=5000, breaker_failures=100)
    with running(application, store) as client:  # type: ignore[arg-type]
        until(lambda: client.get("/v2/health/ready").status == 200)
        store.hang = threading.Event()
        try:
            started = time.monotonic()
            answer = client.score(request_of(served, 3), **{"x-deadline-ms": "60"}).json
            took = time.monotonic() - started
            assert (answer["store"], answer["degraded"], answer["reason"]) == ("timeout", True, "zero_shot")
            assert 0.05 < took < 2
        finally:
            store.hang.set()
        assert client.score(request_of(served, 3), **{"x-deadline-ms": "60000"}).json["store"] == "ok"
        for wrong in ("0", "-1", "1.5", "soon", "9" * 30):
            reply = client.score(request_of(served, 3), **{"x-deadline-ms": wrong})
            assert (reply.status, wrong) == (200 if wrong == "9" * 30 else 422, wrong)


def test_a_redis_server_that_dies_and_comes_back(served: Served, tmp_path: Path) -> None:
    # What Redis has answered for is on its disk, so that a killed server comes back with it.
    with RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        decision = served.files.decision(served.embeddings)
        publish(served.embeddings, server.url, served.application, decision)
        application = with_serve(served.application, breaker_failures=2, breaker_seconds=0.2, deadline_ms=2000)
        with running(application, open_store(server.url, "small")) as client:
            until(lambda: client.get("/v2/health/ready").status == 200)
            good = client.score(request_of(served, 3)).json
            assert (good["store"], good["reason"]) == ("ok", "stale")
            server.stop()
            for _ in range(5):
                reply = client.score(request_of(served, 3))
                assert reply.status == 200
                assert (reply.json["store"], reply.json["reason"]) == ("unavailable", "zero_shot")
            assert client.metric("limaml_store_breaker_open") == 1
            server.start()
            until(lambda: client.score(request_of(served, 3)).json["store"] == "ok")
            again = client.score(request_of(served, 3)).json
            assert (again["candidates"], again["release"]) == (good["candidates"], good["release"])
