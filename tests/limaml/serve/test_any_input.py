"""Whatever comes in: an answer, or a refusal that says why; never a crash, never a 5xx.

The service is called as an ASGI application, so that many inputs cost little. Structured ones are valid requests with
something changed, since random bytes end at the JSON parser.
"""

import asyncio
import os
from typing import Any

import orjson
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limaml.online.store import open_store
from tests.limaml.online.served import Served
from tests.limaml.serve.conftest import META, OTHER, Reply, asgi, serving, with_serve

INFER = "/v2/models/small/infer"
PATHS = ("/v1/score", INFER, "/v2/models/small/versions/m1/infer")
ALLOWED = {200, 400, 413, 422}
# One for all: making a loop costs as much as a request.
LOOP = asyncio.new_event_loop()

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(["", "|", "\\", "\\:", "member_type\\:1", "NaN", "\0", "é" * 300]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
NAMES = ("member_id", "item_id", *META, *OTHER)
ROW = st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=8)
GOOD = {
    "member_id": 3,
    "item_id": 1,
    "member_x0": 0.5,
    "member_x1": 1,
    "member_kind": "kind-1",
    "item_x0": 0.1,
    "item_x1": None,
    "notification_type": "type-1",
}


@st.composite
def scores(draw: st.DrawFn) -> Any:
    """A /v1/score request with some of its values, columns or fields changed."""
    changed: dict[str, Any] = {**GOOD, **draw(st.dictionaries(st.sampled_from(NAMES), SCALARS, max_size=3))}
    shared = draw(st.sets(st.sampled_from(NAMES), max_size=6))
    dropped = draw(st.sets(st.sampled_from(NAMES), max_size=1))
    rows = draw(st.integers(0, 4))
    kept = {name: value for name, value in changed.items() if name not in dropped}
    body: dict[str, Any] = {
        "task": {name: value for name, value in kept.items() if name in shared and name == "member_id"},
        "features": {name: value for name, value in kept.items() if name in shared and name != "member_id"},
        "candidates": [{name: value for name, value in kept.items() if name not in shared} for _ in range(rows)],
    }
    for candidate in body["candidates"]:
        candidate.update(draw(st.one_of(st.just({}), ROW)))
    return draw(st.one_of(st.just(body), st.just(body | draw(st.dictionaries(st.sampled_from(list(body)), ANYTHING)))))


DATATYPES = ("BOOL", "UINT8", "UINT64", "INT8", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16", "", None)


@st.composite
def inferences(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """An infer request: tensors as JSON or bytes, some of them wrong."""
    rows = draw(st.integers(0, 3))
    behind, inputs = b"", []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=5, max_size=9)):
        good = GOOD[name] if GOOD[name] is not None else 1.0
        datatype = "BYTES" if isinstance(good, str) else "FP64" if isinstance(good, float) else "INT64"
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [rows], "data": [good] * rows}
        if draw(st.booleans()):
            raw = draw(st.binary(max_size=16))
            size = draw(st.one_of(st.just(len(raw)), st.integers(-1, 40)))
            tensor["parameters"] = {"binary_data_size": size}
            tensor["datatype"] = draw(st.sampled_from(DATATYPES))
            behind += raw
        if draw(st.integers(0, 3)) == 0:
            tensor[draw(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]))] = draw(ANYTHING)
        inputs.append(tensor)
    body: dict[str, Any] = {"inputs": inputs}
    if draw(st.booleans()):
        body[draw(st.sampled_from(["id", "outputs", "parameters", "inputs"]))] = draw(ANYTHING)
    head = orjson.dumps(body)
    length = draw(st.one_of(st.just(str(len(head))), st.text(st.characters(max_codepoint=255), max_size=6)))
    headers = {"inference-header-content-length": length} if behind or draw(st.booleans()) else {}
    return head + behind, headers


REQUESTS = st.one_of(
    st.tuples(st.just("/v1/score"), scores().map(lambda body: (orjson.dumps(body), {}))),
    st.tuples(st.sampled_from(PATHS[1:]), inferences()),
    st.tuples(st.sampled_from(PATHS), ANYTHING.map(lambda body: (orjson.dumps(body), {}))),
    st.tuples(st.sampled_from(PATHS), st.binary(max_size=64).map(lambda body: (body, {}))),
)


@pytest.fixture(scope="module")
def app(served: Served) -> FastAPI:
    return serving(with_serve(served.application), open_store(served.url, "small"))


seen: dict[int, int] = {}


def ask(app: FastAPI, request: tuple[str, tuple[bytes, dict[str, str]]]) -> Reply:
    path, (body, headers) = request
    reply = LOOP.run_until_complete(asgi(app, "POST", path, body, headers))
    seen[reply.status] = seen.get(reply.status, 0) + 1
    assert reply.status in ALLOWED, (path, body, headers, reply.body)
    if reply.status == 200 and reply.headers["content-type"] == "application/json":
        answer = reply.json
        probability = (
            [each["probability"] for each in answer["candidates"]]
            if path == "/v1/score"
            else [value for each in answer["outputs"] if each["name"] == "probability" for value in each["data"]]
        )
        assert all(0 <= value <= 1 for value in probability)
    elif reply.status != 200:
        assert set(reply.json) == {"error"}
        assert len(reply.json["error"]) < 2000
    return reply


CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


@settings(max_examples=2000, suppress_health_check=CHECKS)
@given(REQUESTS)
def test_any_input_is_answered_or_refused(app: FastAPI, request: Any) -> None:
    ask(app, request)


def test_inputs_were_of_all_kinds() -> None:
    """Else the test above would show little."""
    assert seen.get(200, 0) > 100
    assert seen.get(422, 0) > 100
    assert seen.get(400, 0) > 20


@pytest.mark.heavy
@settings(max_examples=int(os.environ.get("LIMAML_INPUTS", "100000")), suppress_health_check=CHECKS)
@given(REQUESTS)
def test_a_hundred_thousand_inputs(app: FastAPI, request: Any) -> None:
    ask(app, request)
