"""The Open Inference Protocol, spoken by an independent client (NVIDIA's)."""

from typing import Any

import numpy as np
import orjson
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from limaml.online.scoring import Scorer
from tests.limaml.online.served import Served
from tests.limaml.serve.conftest import META, OTHER, Client, as_table, request_of

MODEL = "/v2/models/small"


def tensors(asked: dict[str, Any], binary: bool, shared: bool) -> list[triton.InferInput]:
    """The request as tensors, what is shared once or once a row."""
    table = as_table(asked)
    inputs = []
    for name in ("member_id", *META, *OTHER):
        values = table[name].to_pylist()[: 1 if shared and name in ("member_id", *META) else None]
        if isinstance(values[0], str):
            array, datatype = np.array(values, dtype=object), "BYTES"
        elif isinstance(values[0], int):
            array, datatype = np.array(values, np.int64), "INT64"
        else:
            array, datatype = np.array(values, np.float64), "FP64"
        tensor = triton.InferInput(name, [len(values)], datatype)
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    return inputs


def column(result: triton.InferResult, name: str) -> np.ndarray:
    values = result.as_numpy(name)
    assert values is not None
    return values


@pytest.fixture(scope="module")
def caller(client: Client) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(f"127.0.0.1:{client.port}")


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("member", [3, 55])
def test_infer(
    caller: triton.InferenceServerClient, served: Served, binary_in: bool, binary_out: bool, member: int
) -> None:
    asked = request_of(served, member)
    names = ["probability", "rank", "reason", "age_seconds"]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]
    result = caller.infer("small", tensors(asked, binary_in, True), request_id="q1", outputs=outputs)
    expected = Scorer.open(served.url, served.application).score_table(as_table(asked))
    probability, rank, reason, age = (column(result, name) for name in names)
    np.testing.assert_allclose(probability, expected.probability, rtol=0, atol=1e-6)
    assert probability.dtype == np.float32
    np.testing.assert_array_equal(rank, (-probability).argsort().argsort() + 1)
    texts = [each.decode() if isinstance(each, bytes) else each for each in reason.tolist()]
    assert texts == expected.reason.tolist()
    assert np.isnan(age.astype(float)).all() == (member == 55)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("q1", "small", "m1")
    assert response["parameters"] == {
        "release": 1,
        "generation": served.release.generation,
        "as_of": "2026-01-08",
        "store": "ok",
        "degraded": False,
    }


def test_a_tensor_of_one_value_is_shared(caller: triton.InferenceServerClient, served: Served) -> None:
    asked = request_of(served, 17)
    once, every = (caller.infer("small", tensors(asked, True, shared)) for shared in (True, False))
    np.testing.assert_array_equal(column(once, "probability"), column(every, "probability"))


def test_health_and_metadata(caller: triton.InferenceServerClient) -> None:
    assert caller.is_server_live()
    assert caller.is_server_ready()
    assert caller.is_model_ready("small")
    assert caller.is_model_ready("small", "m1")
    assert not caller.is_model_ready("small", "m2")
    assert caller.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = caller.get_model_metadata("small", "m1")
    assert (metadata["name"], metadata["versions"]) == ("small", ["m1"])
    inputs = {each["name"]: each["datatype"] for each in metadata["inputs"]}
    assert inputs == {
        "member_id": "BYTES",
        "member_x0": "FP32",
        "member_x1": "FP32",
        "member_kind": "BYTES",
        "item_x0": "FP32",
        "item_x1": "FP32",
        "notification_type": "BYTES",
    }
    assert [each["name"] for each in metadata["outputs"]] == ["probability", "rank", "reason", "age_seconds"]


def test_another_model_or_version(caller: triton.InferenceServerClient, served: Served) -> None:
    inputs = tensors(request_of(served, 3), False, True)
    with pytest.raises(InferenceServerException, match="Not Found"):
        caller.infer("other", inputs)
    with pytest.raises(InferenceServerException, match="version 'm9' is not served; m1 is"):
        caller.infer("small", inputs, model_version="m9")
    assert column(caller.infer("small", inputs, model_version="m1"), "rank").min() == 1


def tensor(name: str, data: Any, datatype: str = "FP64", **changes: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data} | changes


def body(served: Served, *changed: dict[str, Any], **fields: Any) -> dict[str, Any]:
    table = as_table(request_of(served, 3, 2))
    kinds = {str: "BYTES", int: "INT64", float: "FP64"}
    inputs = {}
    for name in ("member_id", *META, *OTHER):
        values = table[name].to_pylist()
        inputs[name] = tensor(name, values, kinds[type(values[0])])
    return {"inputs": list((inputs | {each["name"]: each for each in changed}).values())} | fields


def test_columns_of_matrices_and_unknown_values(client: Client, served: Served) -> None:
    outputs = [{"name": "probability"}]
    plain = client.post(f"{MODEL}/infer", body(served, outputs=outputs)).json["outputs"]
    values = body(served)["inputs"][4]["data"]
    column = tensor("item_x0", [[value] for value in values], shape=[2, 1])
    assert client.post(f"{MODEL}/infer", body(served, column, outputs=outputs)).json["outputs"] == plain
    unknown = client.post(f"{MODEL}/infer", body(served, tensor("item_x0", [None, None]), outputs=outputs))
    assert unknown.status == 200
    assert unknown.json["outputs"] != plain


@pytest.mark.parametrize(
    ("changed", "fields", "message"),
    [
        ((), {"inputs": []}, "inputs must be a list of tensors, not []"),
        ((), {"inputs": [1]}, "inputs: each must be an object with a name, not 1"),
        ((), {"id": 3}, "id must be a string, not 3"),
        ((), {"outputs": [{"name": "logit"}]}, "outputs: {'name': 'logit'} names none of probability"),
        ((), {"parameters": {"binary_data_output": 1}}, "binary_data_output must be true or false"),
        ((tensor("item_x0", [1, 2], "BF16"),), {}, "datatype 'BF16' is none of BOOL"),
        ((tensor("item_x0", [1, 2], shape=[3]),), {}, "input item_x0: 2 values, while its shape says 3"),
        ((tensor("item_x0", [1, 2], shape=[1, 2]),), {}, "a column has shape [rows] or [rows, 1]"),
        ((tensor("item_x0", [1, 2], shape="2"),), {}, "input item_x0: shape '2'"),
        ((tensor("item_x0", [1, "2"]),), {}, "column item_x0, row 1: '2' is no FP64"),
        ((tensor("item_x0", [1, 2.5], "INT32"),), {}, "column item_x0, row 1: 2.5 is no INT32"),
        ((tensor("item_x0", [1, 2, 3]),), {}, "input item_x0: 3 rows, others have 2"),
        ((tensor("item_x0", [1]) | {"data": 1},), {}, "data must be a list, not 1"),
        ((tensor("item_x0", [1, 2], parameters={"binary_data_size": 8}),), {}, "where 0 bytes are left"),
    ],
)
def test_bad_requests(client: Client, served: Served, changed: Any, fields: Any, message: str) -> None:
    reply = client.post(f"{MODEL}/infer", body(served, *changed, **fields))
    assert reply.status == 422
    assert message in reply.json["error"]


@pytest.mark.parametrize(
    ("behind", "size", "datatype", "message"),
    [
        (b"\0" * 7, 7, "FP32", "7 bytes are no whole number of FP32 values"),
        (b"\5\0\0\0abc", 7, "BYTES", "ends within value 0"),
        (b"\1\0\0", 3, "BYTES", "ends within value 0"),
        (b"\1\0\0\0\xff", 5, "BYTES", "column item_x0, row 0: not UTF-8"),
        (b"\0" * 16, 8, "FP32", "8 bytes behind the last binary input belong to none"),
        (b"\0" * 8, "8", "FP32", "binary_data_size '8'"),
    ],
)
def test_bad_bytes(client: Client, served: Served, behind: bytes, size: Any, datatype: str, message: str) -> None:

    binary = {"name": "item_x0", "datatype": datatype, "shape": [2], "parameters": {"binary_data_size": size}}
    head = orjson.dumps(body(served, binary))
    header = {"inference-header-content-length": str(len(head))}
    reply = client.post(f"{MODEL}/infer", head + behind, **header)
    assert reply.status == 422
    assert message in reply.json["error"]
    assert client.post(f"{MODEL}/infer", head, **{"inference-header-content-length": "x"}).status == 400
