"""The scorer's benchmarks at their smallest size: what they compare is the same, and what they count is right."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from fastapi import FastAPI

from benchmarks.online import http, scoring, world
from benchmarks.online.load import at_rate, post, saturate
from benchmarks.online.server import bare, either, with_embeddings
from tests.limaml.serve.conftest import asgi


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    world.build(folder, world.application(), tasks=1000)
    return folder


def scores(app: FastAPI, body: dict[str, Any]) -> dict[str, Any]:
    service = getattr(app.state, "service", None)
    if service is not None:
        assert asyncio.run(service.refresh())
    reply = asyncio.run(asgi(app, "POST", "/v1/score", orjson.dumps(body)))
    assert reply.status == 200
    return reply.json


def test_the_bare_handler_does_the_same_arithmetic(folder: Path) -> None:
    body = world.request(world.application(), 7, 50)
    ours, least = scores(with_embeddings(folder), body), scores(bare(folder), body)
    assert ours["reason"] == "fresh"
    for name in ("item_id", "rank"):
        assert [each[name] for each in ours["candidates"]] == [each[name] for each in least["candidates"]]
    probabilities = [[each["probability"] for each in answer["candidates"]] for answer in (ours, least)]
    np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-6)


def test_without_embeddings_reads_nothing_and_answers_alike(folder: Path) -> None:
    app, body = either(folder), world.request(world.application(), 7, 5)
    neighbour = body | {"task": {"member_id": 8}}
    ours = scores(app, body)

    def ask(kind: str, body: dict[str, Any]) -> dict[str, Any]:
        assert asyncio.run(asgi(app, "POST", f"/answer/{kind}")).status == 200
        reply = asyncio.run(asgi(app, "POST", "/v1/score", orjson.dumps(body)))
        assert reply.status == 200
        return reply.json

    constant = ask("without", body)
    assert set(ours) == set(constant)
    assert [set(each) for each in ours["candidates"]] == [set(each) for each in constant["candidates"]]
    assert ask("without", neighbour)["candidates"] == constant["candidates"]
    assert ask("with", neighbour)["candidates"] != ours["candidates"]
    assert ask("with", body)["candidates"] == ours["candidates"]


def test_what_embeddings_cost(folder: Path) -> None:
    result = http.compare(folder, 200)
    assert set(result) == {"1", "50"}
    for each in result.values():
        assert all(each[f"us_{what}"][kind] > 0 for what in ("p50", "p99", "cpu") for kind in http.KINDS)


def test_load_over_sockets(folder: Path) -> None:
    with http.serving(folder, "with") as (port, _):
        body = orjson.dumps(world.request(world.application(), 7, 3))
        requests = [post("/v1/score", body)]
        assert asyncio.run(saturate(port, requests, 0.3, 2)) > 1
        latencies = asyncio.run(at_rate(port, requests, 40, 1.0, connections=4))
        assert len(latencies) == 40
        assert latencies.min() > 0
        with pytest.raises(RuntimeError, match="candidates must be a list"):
            asyncio.run(saturate(port, [post("/v1/score", b"{}")], 0.3, 1))


def test_steps_are_all_there(folder: Path) -> None:
    parts, engines = scoring.steps(folder, 3)
    assert set(parts) == {"1", "50"}
    assert all(us > 0 for each in parts.values() for us in each.values())
    assert set(engines) >= {"torch"}
