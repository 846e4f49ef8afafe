"""`/v1/score` against the scorer of tables, on a real release; and what it answers to what it can't score."""

from typing import Any

import numpy as np
import pytest

from limaml.online.scoring import Scorer
from tests.limaml.online.served import Served
from tests.limaml.serve.conftest import Client, as_table, request_of


@pytest.mark.parametrize("member", [3, 17, 55])
def test_equals_the_scorer_of_tables(client: Client, served: Served, member: int) -> None:
    asked = request_of(served, member)
    answer = client.score(asked).json
    expected = Scorer.open(served.url, served.application).score_table(as_table(asked))
    found = [each["probability"] for each in answer["candidates"]]
    np.testing.assert_allclose(found, expected.probability, rtol=0, atol=1e-6)
    assert [each["reason"] for each in answer["candidates"]] == expected.reason.tolist()
    assert answer["reason"] == expected.reason[0] == ("zero_shot" if member >= 50 else "stale")
    assert [each["item_id"] for each in answer["candidates"]] == [each["item_id"] for each in asked["candidates"]]
    order = sorted(range(len(found)), key=lambda row: -found[row])
    assert [answer["candidates"][row]["rank"] for row in order] == list(range(1, len(found) + 1))


def test_says_what_it_rests_on(client: Client, served: Served) -> None:
    answer = client.score(request_of(served, 3)).json
    release = served.release
    assert (answer["release"], answer["model_version"], answer["generation"], answer["as_of"]) == (
        release.number,
        release.model_version,
        release.generation,
        release.as_of.isoformat(),
    )
    assert (answer["store"], answer["degraded"]) == ("ok", False)
    assert answer["age_seconds"] > 0
    assert client.score(request_of(served, 55)).json["age_seconds"] is None


def test_nothing_known_is_the_default(client: Client, served: Served) -> None:
    asked = request_of(served, 3) | {"features": {}, "task": {"member_id": "somebody"}}
    answer = client.score(asked).json
    assert (answer["reason"], answer["age_seconds"], answer["store"]) == ("default", None, "ok")


def test_keys_and_features_may_be_said_in_either_place(client: Client, served: Served) -> None:
    asked = request_of(served, 3)
    spread = [{**asked["task"], **asked["features"], **candidate} for candidate in asked["candidates"]]
    assert client.score({"candidates": spread}).json["candidates"] == client.score(asked).json["candidates"]
    text = asked | {"task": {"member_id": "3"}}
    assert client.score(text).json["candidates"] == client.score(asked).json["candidates"]


def test_no_candidates(client: Client, served: Served) -> None:
    answer = client.score(request_of(served, 3) | {"candidates": []}).json
    assert (answer["candidates"], answer["reason"], answer["age_seconds"]) == ([], None, None)


def without(asked: dict[str, Any], name: str) -> dict[str, Any]:
    return asked | {"candidates": [{k: v for k, v in each.items() if k != name} for each in asked["candidates"]]}


def replaced(asked: dict[str, Any], row: int, **values: Any) -> dict[str, Any]:
    candidates = [dict(each) for each in asked["candidates"]]
    candidates[row].update(values)
    return asked | {"candidates": candidates}


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda r: b"{", 400, "the body is not JSON"),
        (lambda r: b"\xff\xfe", 400, "the body is not JSON"),
        (lambda r: [], 422, "the body must be an object with task, features, candidates, not []"),
        (lambda r: r | {"candidate": []}, 422, "unknown field 'candidate'; there are task, features, candidates"),
        (lambda r: {"task": r["task"]}, 422, "candidates must be a list of objects, not None"),
        (lambda r: r | {"candidates": [1]}, 422, "candidates, row 0: must be an object, not 1"),
        (lambda r: r | {"task": [1]}, 422, "task must be an object, not [1]"),
        (lambda r: r | {"task": {}}, 422, "task key column member_id missing"),
        (lambda r: r | {"task": {"member_id": None}}, 422, "column member_id, row 0: null in a task key"),
        (lambda r: r | {"task": {"member_id": "k" * 600}}, 422, "a task key of 600 bytes"),
        (lambda r: without(r, "item_x1"), 422, "feature column item_x1 missing; the columns are"),
        (lambda r: replaced(r, 2, item_x0="1"), 422, "column item_x0, row 2: a numeric feature must be a number"),
        (lambda r: replaced(r, 2, item_x0=1e39), 422, "column item_x0, row 2: the value is infinite"),
        (lambda r: replaced(r, 2, member_x0=1.0), 422, "column member_x0, row 2: said of all candidates already"),
        (lambda r: r | {"task": r["features"]}, 422, "column member_kind: in task and in features"),
        (lambda r: r | {"features": {"member_x0": 1}}, 422, "meta feature columns member_x1, member_kind missing"),
    ],
)
def test_bad_requests(client: Client, served: Served, change: Any, status: int, message: str) -> None:
    reply = client.score(change(request_of(served, 3)))
    assert reply.status == status
    assert message in reply.json["error"]


def test_a_candidate_that_lacks_what_others_have(client: Client, served: Served) -> None:
    asked = request_of(served, 3)
    del asked["candidates"][4]["notification_type"]
    assert "column notification_type, row 4: missing, while other" in client.score(asked).json["error"]


def test_a_candidate_that_says_again_what_is_said_of_all(client: Client, served: Served) -> None:
    asked = request_of(served, 3)
    name = next(iter(asked["features"]))
    asked["candidates"][2][name] = 1
    assert f"column {name}, row 2: said of all candidates already" in client.score(asked).json["error"]


def test_what_candidates_have_beside_features_changes_nothing(client: Client, served: Served) -> None:
    asked = request_of(served, 3)
    expected = client.score(asked).json["candidates"]
    for candidate in asked["candidates"]:
        candidate["shelf"] = "top"
    assert client.score(asked).json["candidates"] == expected
    del asked["candidates"][1]["shelf"]
    assert client.score(asked).json["candidates"] == expected


def test_other_paths_and_methods(client: Client) -> None:
    assert (client.get("/nothing").status, client.get("/nothing").json) == (404, {"error": "Not Found"})
    assert client.get("/v1/score").status == 405


def test_a_path_in_the_form_of_a_route_names_a_version_like_any_other(client: Client) -> None:
    reply = client.post("/v2/models/small/versions/%7Bmodel_version%7D/infer", {})
    assert reply.status == 404
    assert "is not served" in reply.json["error"]
