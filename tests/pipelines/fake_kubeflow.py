"""A Kubeflow Pipelines API in this process: HTTP, its own memory, the backend's rules, every request recorded.

What it takes, refuses and says was compared, request by request, with the API server of 2.17.0 serving one team: a
name that is taken, a filter or an order by an unknown field, a parameter the pipeline has not, a cron that can't be
read. Five fields of cron it takes, the first as seconds. Nothing found is an empty object. Times are whole seconds.
"""

import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from limaml import cron

PREFIX = "/apis/v2beta1"
_FIELDS = {"display_name", "name", "recurring_run_id", "state", "created_at", "experiment_id", "description"}
_OPERATIONS = {1: "EQUALS", 9: "IS_SUBSTRING"}


@dataclass
class Fault:
    """What happens instead of an answer to requests of a method and path, so many times; 0: always."""

    method: str
    path: str
    status: int = 500
    body: str = '{"code": 13, "message": "planted"}'
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    after: bool = False
    seconds: float = 0.0
    times: int = 1

    def meets(self, method: str, path: str) -> bool:
        return self.method in ("*", method) and re.search(self.path, path) is not None


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


class FakeKubeflow:
    """The server's memory, and what a test says about it."""

    def __init__(self, version: str = "2.17.0", multi_user: bool = False, token: str = "") -> None:
        self.version, self.multi_user, self.token = version, multi_user, token
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.kinds: dict[str, dict[str, dict[str, Any]]] = {
            kind: {} for kind in ("pipelines", "versions", "experiments", "recurringruns", "runs")
        }
        self.uploaded: dict[str, str] = {}
        self.page_size = 2  # small, so that every listing has pages
        self.on_create: Callable[[str, dict[str, Any]], None] = lambda kind, item: None
        self.host = ""
        self._numbers = itertools.count(1)
        self.lock = threading.RLock()

    def fault(self, method: str, path: str, **what: Any) -> None:
        """Plant a fault."""
        self.faults.append(Fault(method, path, **what))

    def asked(self, method: str, pattern: str) -> list[Request]:
        """Requests so far of a method whose path has a pattern."""
        return [each for each in self.requests if each.method == method and re.search(pattern, each.path)]

    def add(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Something that is there already, such as a run."""
        ids = {
            "pipelines": "pipeline_id", "versions": "pipeline_version_id", "experiments": "experiment_id",
            "recurringruns": "recurring_run_id", "runs": "run_id",
        }  # fmt: skip
        with self.lock:
            identity = f"{kind}-{next(self._numbers):04d}"
            item = {ids[kind]: identity, "created_at": _now()} | fields
            self.kinds[kind][identity] = item
        self.on_create(kind, item)
        return item

    def items(self, kind: str) -> list[dict[str, Any]]:
        """All of a kind, oldest first."""
        return list(self.kinds[kind].values())

    @contextmanager
    def running(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator["FakeKubeflow"]:
        """Serve while the block runs, by default on a free port of this machine alone."""
        fake = self

        class Handler(_Handler):
            kubeflow = fake

        server = ThreadingHTTPServer(address, Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.host = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def answer(self, request: Request) -> tuple[int, Any]:
        """Status and body: the routes."""
        method, path = request.method, request.path
        if path.endswith("/healthz"):
            if not path.startswith(PREFIX):
                return 404, "404 page not found"
            body = {"commit_sha": "abc", "tag_name": self.version, "multi_user": self.multi_user}
            return 200, body | {"pipeline_store": "database"}
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"code": 16, "message": "Request header error: there is no user identity header."}
        parts = [unquote(part) for part in path.removeprefix(PREFIX).strip("/").split("/")]
        with self.lock:
            match method, parts:
                case "POST", ["pipelines", "upload_version"]:
                    return self._upload_version(request)
                case _, ["pipelines", pipeline, "versions", *rest]:
                    return self._versions(request, pipeline, rest)
                case "GET", [("pipelines" | "experiments" | "recurringruns" | "runs") as kind]:
                    return self._list(kind, self.items(kind), request.query)
                case "POST", [("pipelines" | "experiments" | "recurringruns" | "runs") as kind]:
                    return self._create(kind, request.body)
                case "POST", ["recurringruns", action]:
                    return self._switch(action)
                case _, [kind, identity] if kind in self.kinds:
                    return self._one(method, kind, identity, request.query)
        return 404, {"code": 5, "message": "Not Found"}

    def _one(self, method: str, kind: str, identity: str, query: dict[str, str]) -> tuple[int, Any]:
        item = self.kinds[kind].get(identity)
        if item is None:
            return _refusal(404, 5, f"Failed to get it: ResourceNotFoundError: {kind}", f"{kind} {identity} not found")
        if method == "GET":
            return 200, item
        if kind == "pipelines" and self._versions_of(identity) and query.get("cascade") != "true":
            return _refusal(
                400, 3, "Check error stack: Invalid input error", "it has existing pipeline versions. Set cascade=true"
            )
        del self.kinds[kind][identity]
        for version in self._versions_of(identity):
            del self.kinds["versions"][version["pipeline_version_id"]]
        return 200, {}

    def _create(self, kind: str, body: dict[str, Any]) -> tuple[int, Any]:
        name = body.get("display_name") or body.get("name")
        if kind in ("pipelines", "experiments"):
            if self.multi_user and not body.get("namespace"):
                return _refusal(400, 3, "Invalid input error", "namespace is empty")
            if not self.multi_user:
                body = {key: value for key, value in body.items() if key != "namespace"}
            taken = [item for item in self.items(kind) if item["display_name"] == name]
            if taken:
                return _refusal(409, 6, "Already exist error", f"The name {name} already exist")
        if kind in ("recurringruns", "runs") and (refusal := self._refuse_run(kind, body)):
            return refusal
        extra: dict[str, Any] = {"display_name": name}
        if kind == "recurringruns":
            extra["status"] = "ENABLED" if body.get("mode") == "ENABLE" else "DISABLED"
        if kind == "runs":
            extra |= {"state": "PENDING", "storage_state": "AVAILABLE", "finished_at": "1970-01-01T00:00:00Z"}
        return 200, self.add(kind, **body, **{key: value for key, value in extra.items() if key not in body})

    def _refuse_run(self, kind: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        """What a run or a recurring run is refused for, in the backend's order."""
        if kind == "recurringruns":
            if not 1 <= int(body.get("max_concurrency") or 0) <= 10:
                said = "Max concurrency of a recurring run must be at least 1 and at most 10"
                return _refusal(400, 3, "Failed to create a recurring run due to conversion error", said)
            fields = body["trigger"]["cron_schedule"]["cron"]
            try:
                cron.normalize(f"{fields} *" if len(fields.split()) == 5 else fields)
            except ValueError as error:
                said = (
                    f"Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). Error: {error}"
                )
                return _refusal(400, 3, "Failed to create a recurring run due to conversion error", said)
        if body.get("experiment_id") not in self.kinds["experiments"]:
            said = f"Experiment {body.get('experiment_id')} not found"
            return _refusal(404, 5, "invalid experimentId and namespace combination: ResourceNotFoundError", said)
        version = body.get("pipeline_version_reference", {}).get("pipeline_version_id")
        if version not in self.kinds["versions"]:
            return _refusal(
                500, 13, f"ResourceNotFoundError: PipelineVersion {version} not found", "Internal Server Error"
            )
        if not self.uploaded.get(version, "").startswith("# PIPELINE DEFINITION"):
            return None  # a test's own text
        known = next(yaml.safe_load_all(self.uploaded[version]))["root"].get("inputDefinitions", {})["parameters"]
        given = (body.get("runtime_config") or {}).get("parameters") or {}
        if extra := given.keys() - known.keys():
            said = f"parameter(s) provided are not required by pipeline: {', '.join(extra)}"
            return _refusal(400, 3, "invalid pipeline job inputs: Invalid input error", said)
        for key, about in known.items():
            if key not in given and "defaultValue" not in about and not about.get("isOptional"):
                said = f"parameter {key} is not optional, yet has neither default value nor user provided value"
                return _refusal(400, 3, "invalid pipeline job inputs: Invalid input error", said)
            if about["parameterType"] == "STRING" and not isinstance(given.get(key, ""), str):
                said = (
                    f"input parameter {key} requires type string, but the input parameter is not of string value type"
                )
                return _refusal(400, 3, "invalid pipeline job inputs: Invalid input error", said)
        return None

    def _switch(self, text: str) -> tuple[int, Any]:
        identity, _, action = text.partition(":")
        item = self.kinds["recurringruns"].get(identity)
        if item is None:
            return _refusal(404, 5, "Failed to change its mode: ResourceNotFoundError", f"Job {identity} not found")
        item["mode"], item["status"] = action.upper(), f"{action.upper()}D"
        return 200, {}

    def _versions_of(self, pipeline: str) -> list[dict[str, Any]]:
        return [item for item in self.items("versions") if item["pipeline_id"] == pipeline]

    def _versions(self, request: Request, pipeline: str, rest: list[str]) -> tuple[int, Any]:
        if pipeline not in self.kinds["pipelines"]:
            return _refusal(404, 5, "Failed to get namespace: ResourceNotFoundError", f"Pipeline {pipeline} not found")
        if request.method == "GET" and not rest:
            return self._list("pipeline_versions", self._versions_of(pipeline), request.query)
        return self._one(request.method, "versions", rest[0], request.query)

    def _upload_version(self, request: Request) -> tuple[int, Any]:
        pipeline, name = request.query.get("pipelineid", ""), request.query.get("name", "")
        if pipeline not in self.kinds["pipelines"]:
            return 400, {"error_message": "Failed to create a pipeline version", "error_details": "a stack"}
        if any(each["name"] == name for each in self._versions_of(pipeline)):
            return 409, {"error_message": "Failed to create a pipeline version", "error_details": "a stack"}
        if not isinstance(request.body, str) or "pipelineInfo:" not in request.body:
            return 400, {"error_message": "unknown template format", "error_details": "a stack"}
        version = self.add("versions", pipeline_id=pipeline, name=name, display_name=name)
        version["description"] = request.query.get("description", "")
        self.uploaded[version["pipeline_version_id"]] = request.body
        return 200, version

    def _list(self, kind: str, items: list[dict[str, Any]], query: dict[str, str]) -> tuple[int, Any]:
        invalid = "invalid list options"
        if self.multi_user and kind != "pipeline_versions" and not ("namespace" in query or "experiment_id" in query):
            return _refusal(400, 3, "Invalid input error", "namespace is empty")
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", ()):
            if predicate["key"] not in _FIELDS:
                return _refusal(400, 3, invalid, f'no support for filtering on unrecognized field "{predicate["key"]}"')
            value = predicate.get("stringValue", predicate.get("string_value"))
            operation = _OPERATIONS.get(predicate["operation"], predicate["operation"])
            if operation not in _OPERATIONS.values():
                return _refusal(400, 3, invalid, "Error using Filter.Predicate.Operation")
            kept = []
            for item in items:
                has = str(item.get(predicate["key"], ""))
                if (value == has) if operation == "EQUALS" else (value in has):
                    kept.append(item)
            items = kept
        order, _, direction = query.get("sort_by", "").partition(" ")
        if order and order not in _FIELDS:
            return _refusal(400, 3, invalid, f'Invalid sorting field: "{order}"')
        items = items[::-1] if direction == "desc" else items
        token = query.get("page_token") or "0"
        if not token.isdigit():
            return _refusal(400, 3, invalid, "Invalid page token")
        start = int(token)
        size = min(int(query.get("page_size") or 10), self.page_size)
        if not items:
            return 200, {}
        names = {"recurringruns": "recurringRuns"}
        answer = {names.get(kind, kind): items[start : start + size], "total_size": len(items)}
        rest = len(items) - start - size
        return 200, answer | ({"next_page_token": str(start + size)} if rest > 0 else {})


def _refusal(status: int, code: int, where: str, what: str) -> tuple[int, Any]:
    """An error as the backend words it: the way it came, then in `details` what is the matter."""
    about = {"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": what}
    whole = f"Failed: {where}" if status == 500 else f"Failed: {where}: {what}"
    return status, {"code": code, "message": whole, "details": [about]}


class _Handler(BaseHTTPRequestHandler):
    kubeflow: FakeKubeflow
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        kubeflow, parts = self.kubeflow, urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, query, _body(raw, headers.get("content-type", "")), headers)
        with kubeflow.lock:
            kubeflow.requests.append(request)
            fault = next((each for each in kubeflow.faults if each.meets(self.command, parts.path)), None)
            if fault is not None and fault.times:
                fault.times -= 1
                if not fault.times:
                    kubeflow.faults.remove(fault)
        if fault is not None:
            time.sleep(fault.seconds)
            if fault.after:
                kubeflow.answer(request)
            if fault.cut:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if fault.status:
                self._send(fault.status, fault.body, fault.headers)
                return
        status, body = kubeflow.answer(request)
        text = body if isinstance(body, str) else json.dumps(body)
        self._send(status, text, {"Content-Type": "application/json"})

    def _send(self, status: int, text: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked may have given up
            self.wfile.write(text.encode())

    do_GET = do_POST = do_DELETE = _handle

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def _body(raw: bytes, kind: str) -> Any:
    if kind.startswith("multipart/"):
        message = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + raw)
        return message.get_payload()[0].get_payload(decode=True).decode()  # type: ignore[index,union-attr]
    return json.loads(raw) if raw else None


def _now() -> str:
    return datetime.now(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
