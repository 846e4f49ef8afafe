"""Tokens, limits, and what is never written down."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from limaml.errors import ConfigError
from limaml.online.store import open_store
from limaml.serve import guard
from limaml.serve.app import create_app
from limaml.serve.guard import Rate
from tests.limaml.online.served import Served
from tests.limaml.serve.conftest import Client, request_of, running, until, with_serve
from tests.limaml.serve.faults import FaultyStore


def test_token(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    application = with_serve(served.application, token_variable="SCORER_TOKEN")
    store = open_store(served.url, "small")
    monkeypatch.delenv("SCORER_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="the environment variable SCORER_TOKEN is not set"):
        create_app(store, application)
    monkeypatch.setenv("SCORER_TOKEN", "s3cret")
    with running(application, store) as client:
        until(lambda: client.get("/v2/health/ready").status == 200)
        asked = request_of(served, 3)
        for headers in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "s3cret"}, {"authorization": "é"}):
            reply = client.score(asked, **headers)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert client.post("/v2/models/small/infer", {}).status == 401
        assert client.score(asked, authorization="Bearer s3cret").status == 200
        assert client.get("/v2/health/live").status == client.get("/metrics").status == 200


def test_sizes(served: Served) -> None:
    application = with_serve(served.application, maximum_candidates=5, maximum_request_bytes=4000)
    with running(application, open_store(served.url, "small")) as client:
        until(lambda: client.get("/v2/health/ready").status == 200)
        assert client.score(request_of(served, 3, 5)).status == 200
        reply = client.score(request_of(served, 3, 6))
        assert (reply.status, "6 candidates, more than 5" in reply.json["error"]) == (413, True)
        column = {"name": "item_x0", "datatype": "FP32", "shape": [6], "data": [1] * 6}
        assert client.post("/v2/models/small/infer", {"inputs": [column]}).status == 413
        reply = client.score(b" " * 4001)
        assert (reply.status, "longer than 4000 bytes" in reply.json["error"]) == (413, True)
        # Nobody said how long this one is.
        chunks = client._pool.request("POST", "/v1/score", body=iter([b" " * 3000, b" " * 3000]), chunked=True)
        assert chunks.status == 413
        assert client.score(b"{}", **{"content-encoding": "gzip"}).status == 415


def test_a_body_that_does_not_come(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", client.port), 10) as slow:
        slow.sendall(b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        answer = slow.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"the body was not there after 0.2 s" in answer
    with socket.create_connection(("127.0.0.1", client.port), 10) as gone:
        gone.sendall(b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    until(lambda: client.metric("limaml_in_flight_requests") == 0)
    assert client.get("/v2/health/live").status == 200


def test_rate_of_a_bucket() -> None:
    now = 0.0
    rate = Rate(2, clock=lambda: now)
    assert [rate.allows() for _ in range(3)] == [True, True, False]
    now = 0.5
    assert [rate.allows() for _ in range(2)] == [True, False]
    now = 100.0
    assert [rate.allows() for _ in range(3)] == [True, True, False]
    slow = Rate(0.5, clock=lambda: now)
    assert [slow.allows(), slow.allows()] == [True, False]
    assert all(Rate(0).allows() for _ in range(100))


def test_rate(served: Served) -> None:
    application = with_serve(served.application, requests_per_second=2)
    with running(application, open_store(served.url, "small")) as client:
        until(lambda: client.get("/v2/health/ready").status == 200)
        replies = [client.score(request_of(served, 3, 1)) for _ in range(12)]
        refused = [reply for reply in replies if reply.status == 429]
        assert len(refused) > 5
        assert {reply.status for reply in replies} == {200, 429}
        assert refused[0].headers["retry-after"] == "1"
        assert client.get("/v2/health/ready").status == 200


def test_requests_at_once(served: Served) -> None:
    store = FaultyStore(open_store(served.url, "small"), "redis://far.away:6379/0")
    application = with_serve(served.application, maximum_in_flight=2, deadline_ms=5000)
    with running(application, store) as client:  # type: ignore[arg-type]
        until(lambda: client.get("/v2/health/ready").status == 200)
        store.hang = threading.Event()
        with ThreadPoolExecutor(3) as pool:
            try:
                waiting = [pool.submit(client.score, request_of(served, 3, 1)) for _ in range(2)]
                until(lambda: client.metric("limaml_in_flight_requests") == 2)
                refused = client.score(request_of(served, 3, 1))
                assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            finally:
                store.hang.set()
            assert [each.result().status for each in waiting] == [200, 200]


def test_metrics_have_kserves_names(client: Client, served: Served) -> None:
    before = client.metric('request_predict_seconds_count{model_name="small"}')
    client.score(request_of(served, 3, 4))
    client.score(request_of(served, 55, 4))
    client.score(b"{")
    for step in ("preprocess", "predict", "postprocess"):
        assert client.metric(f'request_{step}_seconds_count{{model_name="small"}}') >= before + 2
    assert client.metric("limaml_release_number") == 1
    assert client.metric("limaml_release_age_seconds") > 0
    assert client.metric("limaml_ready") == 1
    assert client.metric('limaml_swaps_total{result="done"}') == 1
    assert client.metric('limaml_candidates_total{reason="zero_shot"}') >= 4
    assert client.metric('limaml_requests_total{path="/v1/score",status="400"}') >= 1
    assert client.metric("limaml_in_flight_requests") == 0


def test_openapi_describes_the_application(client: Client) -> None:
    described = client.get("/openapi.json").json
    paths = described["paths"]
    assert {"/v1/score", "/v2", "/v2/health/ready", "/v2/models/small/infer", "/metrics"} <= set(paths)
    score = paths["/v1/score"]["post"]
    body = score["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]["features"]["properties"]) >= {"member_x0", "item_x1", "notification_type"}
    assert set(body["properties"]["task"]["properties"]) == {"member_id"}
    assert {"200", "413", "422", "429", "503"} <= set(score["responses"])
    orjson.dumps(described)
