"""The Open Inference Protocol v2: metadata, and `infer` with one tensor a column.

Inputs are the columns of a table of candidates; a tensor of one value is shared by all rows. Outputs are columns too.
Shapes: R candidates.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from limaml.config import Application
from limaml.errors import DataError
from limaml.online.columns import Columns, shown
from limaml.online.store import Release
from limaml.serve.guard import Refused
from limaml.serve.plain import described, parse, ranks, too_many
from limaml.serve.service import Answer
from limaml.serve.tensors import as_bytes, as_json, values_of

HEADER_LENGTH = "inference-header-content-length"
EXTENSIONS = ("binary_tensor_data",)

OUTPUTS = {"probability": "FP32", "rank": "INT64", "reason": "BYTES", "age_seconds": "FP64"}


@dataclass(frozen=True)
class Inference:
    """A parsed `infer` request.

    Attributes:
        id: the caller's, "" where there is none.
        columns: candidates.
        outputs: which are asked for, and whether as bytes behind the JSON.
    """

    id: str
    columns: Columns
    outputs: dict[str, bool]


def model_metadata(application: Application, release: Release) -> dict[str, Any]:
    """Name, versions, inputs and outputs of the model being served."""
    names = dict.fromkeys([*application.key_columns, *(each.name for each in application.features.all)])
    numeric = {each.name for each in application.features.all if each.kind == "numeric"}
    return {
        "name": application.name,
        "versions": [release.model_version],
        "platform": "limaml",
        "inputs": [_tensor(name, "FP32" if name in numeric else "BYTES") for name in names],
        "outputs": [_tensor(name, datatype) for name, datatype in OUTPUTS.items()],
    }


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1]}


def inference_of(body: bytes, header_length: str | None, maximum: int) -> Inference:
    """A request's columns and wishes.

    Args:
        body: JSON, and behind it the bytes of binary tensors.
        header_length: how long the JSON is; None where it is all.
        maximum: most candidates of one request.

    Raises:
        DataError: a field or tensor breaks the protocol, or says something twice.
        Refused: the body is no JSON, or there are too many candidates.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal()) or int(header_length[:20]) > length:
            raise Refused(400, f"{HEADER_LENGTH} {header_length[:20]!r}: give the JSON's length; the body has {length}")
        length = int(header_length)
    request, binary = parse(body[:length]), memoryview(body)[length:]
    if not isinstance(request, dict):
        raise DataError(f"the body must be an object with inputs, not {shown(request)}")
    identity = request.get("id", "")
    if not isinstance(identity, str):
        raise DataError(f"id must be a string, not {shown(identity)}")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise DataError(f"inputs must be a list of tensors, not {shown(inputs)}")
    values: dict[str, list[Any]] = {}
    for tensor in inputs:
        name, column, taken = values_of(tensor, binary)
        binary = binary[taken:]
        if name in values:
            raise DataError(f"input {name} is there twice")
        values[name] = column
    if len(binary):
        raise DataError(f"{len(binary)} bytes behind the last binary input belong to none")
    return Inference(identity, _columns(values, maximum), _outputs(request))


def _columns(values: dict[str, list[Any]], maximum: int) -> Columns:
    rows = next((len(column) for column in values.values() if len(column) != 1), 1)
    for name, column in values.items():
        if len(column) not in (1, rows):
            raise DataError(f"input {name}: {len(column)} rows, others have {rows}; give as many, or one for all")
    if rows > maximum:
        raise too_many(rows, maximum)
    return Columns(rows, values)


def _outputs(request: dict[str, Any]) -> dict[str, bool]:
    asked = request.get("outputs") or [{"name": name} for name in OUTPUTS]
    binary = _parameter(request, "binary_data_output", False)
    if not isinstance(asked, list):
        raise DataError(f"outputs must be a list, not {shown(asked)}")
    outputs: dict[str, bool] = {}
    for each in asked:
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            raise DataError(f"outputs: {shown(each)} names none of {', '.join(OUTPUTS)}")
        outputs[name] = _parameter(each, "binary_data", binary)
    return outputs


def _parameter(holder: dict[str, Any], name: str, default: bool) -> bool:
    parameters = holder.get("parameters") or {}
    value = parameters.get(name, default) if isinstance(parameters, dict) else None
    if not isinstance(value, bool):
        raise DataError(f"parameters: {name} must be true or false, not {shown(value)}")
    return value


def answer_of(application: Application, inference: Inference, answer: Answer) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer."""
    scores = answer.scores
    columns: dict[str, np.ndarray] = {
        "probability": scores.probability,
        "rank": ranks(scores.probability),
        "reason": scores.reason,
        "age_seconds": scores.age_seconds,
    }
    tensors: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for name, binary in inference.outputs.items():
        if binary:
            tensor, data = as_bytes(name, OUTPUTS[name], columns[name])
            behind.append(data)
        else:
            tensor = as_json(name, OUTPUTS[name], columns[name])
        tensors.append(tensor)
    parameters = described(answer)
    content = orjson.dumps(
        {
            "model_name": application.name,
            "model_version": parameters.pop("model_version"),
            **({"id": inference.id} if inference.id else {}),
            "parameters": parameters,
            "outputs": tensors,
        }
    )
    if not behind:
        return content, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(content))}
    return b"".join([content, *behind]), headers
