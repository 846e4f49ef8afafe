"""What OpenAPI says of each route; request and answer by the application's own columns."""

from typing import Any

from limaml.config import Application, Feature
from limaml.serve.inference_protocol import OUTPUTS
from limaml.serve.plain import REASONS
from limaml.serve.tensors import DATATYPES

_NUMBER = {"type": ["number", "boolean", "null"]}
_CATEGORY = {"type": ["string", "number", "boolean", "null"]}
_KEY = {"type": ["string", "integer"]}
_ANY = {"type": ["string", "number", "boolean", "null"]}
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_STATUSES = {
    400: "no JSON",
    401: "no bearer token, or another one",
    408: "the body did not arrive",
    413: "the body or the list of candidates is too long",
    415: "a content encoding",
    422: "a field, column or value breaks the contract; the error names it",
    429: "too many requests; try again after Retry-After seconds",
    503: "no release is loaded yet",
}
_HEADERS = (
    ("X-Deadline-Ms", {"type": "integer", "minimum": 1}, "wait no longer than this for the store"),
    ("X-Request-ID", {"type": "string"}, "what the exposure log calls the request"),
)
_RESTS_ON = {
    "release": {"type": "integer"},
    "generation": {"type": "string"},
    "as_of": {"type": "string", "format": "date"},
    "store": {"enum": ["ok", "unavailable", "timeout"], "description": "why embeddings could not be read"},
    "request_id": {"type": "string", "description": "of a member in a test: by what the outcome is joined"},
    "experiment": {"type": "string", "description": "the test that the answer was recorded for"},
    "variant": {"enum": ["control", "treatment"]},
    "degraded": {"type": "boolean", "description": "store is not ok: nobody's embedding was used"},
}


def of(application: Application) -> dict[str, dict[str, Any]]:
    """Arguments of `add_api_route` by the handler's name."""
    return {
        "score": {
            "summary": "Score and rank candidates for a member",
            **_body("application/json", _score_request(application)),
            **_answers(_score_answer(application), _STATUSES),
        },
        "infer": {
            "summary": "Score candidates, one tensor a column",
            **_body("application/json", _infer_request()),
            **_answers(_infer_answer(), _STATUSES | {404: "another version is served"}),
        },
        "server_metadata": {"summary": "Server metadata"},
        "live": {"summary": "Whether the process answers"},
        "ready": {"summary": "Whether a release is loaded and checked", **_answers({}, {503: "not yet"})},
        "model_metadata": {"summary": "Inputs and outputs of the model", **_answers({}, {404: "no such version"})},
        "model_ready": {"summary": "Whether the model is loaded", **_answers({}, {404: "no such version"})},
        "text_metrics": {"summary": "Metrics in Prometheus' text format"},
    }


def _body(media: str, schema: dict[str, Any]) -> dict[str, Any]:
    body = {"required": True, "content": {media: {"schema": schema}}}
    return {"openapi_extra": {"requestBody": body, "parameters": [_header(*each) for each in _HEADERS]}}


def _header(name: str, schema: dict[str, Any], meaning: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": schema, "description": meaning}


def _answers(good: dict[str, Any], errors: dict[int, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ERROR}}
    responses: dict[int, dict[str, Any]] = {
        status: {"description": text, "content": content} for status, text in errors.items()
    }
    if good:
        responses[200] = {"description": "The answer", "content": {"application/json": {"schema": good}}}
    return {"responses": responses}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _column(feature: Feature) -> dict[str, Any]:
    return _NUMBER if feature.kind == "numeric" else _CATEGORY


def _score_request(application: Application) -> dict[str, Any]:
    features = {each.name: _column(each) for each in application.features.all}
    keys = dict.fromkeys(application.key_columns, _KEY)
    item = {application.data.item_column: _ANY}
    where = "said here of all candidates, or in each of them"
    return _object(
        {
            "task": {"type": "object", "properties": keys, "description": f"task keys, {where}"},
            "features": {"type": "object", "properties": features, "description": f"features, {where}"},
            "candidates": _list({"type": "object", "properties": {**item, **features, **keys}}),
        },
        "candidates",
    )


def _score_answer(application: Application) -> dict[str, Any]:
    candidate = {
        application.data.item_column: _ANY,
        "probability": {"type": "number"},
        "rank": {"type": "integer"},
        "reason": {"enum": list(REASONS)},
    }
    return _object(
        {
            **_RESTS_ON,
            "model_version": {"type": "string"},
            "reason": {"enum": [*REASONS, None], "description": "of the candidate of whose task least was known"},
            "age_seconds": {"type": ["number", "null"]},
            "candidates": _list(_object(candidate, "probability", "rank", "reason")),
        }
    )


def _infer_request() -> dict[str, Any]:
    tensor = {
        "name": {"type": "string"},
        "datatype": {"enum": list(DATATYPES)},
        "shape": _list({"type": "integer"}),
        "data": _list({}),
        "parameters": {"type": "object"},
    }
    output = {"name": {"enum": list(OUTPUTS)}, "parameters": {"type": "object"}}
    return _object(
        {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": _list(_object(tensor, "name", "datatype", "shape")),
            "outputs": _list(_object(output, "name")),
        },
        "inputs",
    )


def _infer_answer() -> dict[str, Any]:
    tensor = {"name": {"type": "string"}, "datatype": {"type": "string"}, "shape": _list({}), "data": _list({})}
    return _object(
        {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "parameters": {"type": "object", "properties": _RESTS_ON},
            "outputs": _list(_object(tensor)),
        }
    )
