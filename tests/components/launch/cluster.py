"""A Kubernetes API server in this process: it answers as told, breaks connections, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes

from components.launch.api import Api

NAMESPACE = "team-a"
Answer = tuple[int, Any]


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class Cluster:
    """Objects by path, pods, logs; `act` runs before each look at a launched object and plays the operator.

    Attributes:
        breaks: so many of the next requests end without an answer, each in the way named.
        denied: parts of paths that this account may not use.
        kinds: plurals the cluster knows.
        unknown_fields: fields of a spec that this version of the operator does not know.
    """

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: list[dict[str, Any]] = field(default_factory=list)
    logs: dict[str, list[str]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)
    kinds: set[str] = field(default_factory=lambda: {"trainjobs", "sparkapplications"})
    unknown_fields: set[str] = field(default_factory=set)
    admission: str = ""
    act: Callable[["Cluster", dict[str, Any]], None] = lambda cluster, body: None
    looks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def made(self) -> list[dict[str, Any]]:
        """Every object that was created, in order."""
        return [r.body for r in self.requests if r.method == "POST"]

    def deleted(self) -> list[str]:
        """Paths that were deleted."""
        return [r.path for r in self.requests if r.method == "DELETE"]

    def answer(self, request: Request) -> Answer:
        """What a real server would say."""
        if any(part in request.path for part in self.denied):
            return _status(403, f'User "step" cannot {request.method} resource "{request.path}" in {NAMESPACE}')
        parts = request.path.strip("/").split("/")
        if parts[0] == "apis":
            return self._custom(request, parts)
        if parts[4] == "events":
            return 200, {"items": self.events}
        if parts[-1] == "log":
            return self._log(parts[5], request.query.get("sinceTime", ""))
        if len(parts) == 6:
            return next(
                ((200, pod) for pod in self.pods if pod["metadata"]["name"] == parts[5]),
                _status(404, f'pods "{parts[5]}" not found'),
            )
        label, _, value = request.query["labelSelector"].partition("=")
        return 200, {"items": [pod for pod in self.pods if pod["metadata"].get("labels", {}).get(label) == value]}

    def _custom(self, request: Request, parts: list[str]) -> Answer:
        if parts[5] not in self.kinds:
            return _status(404, "the server could not find the requested resource")
        if request.method == "POST":
            return self._create(request)
        body = self.objects.get(request.path)
        if body is None:
            return _status(404, f'{parts[5]} "{parts[-1]}" not found')
        if request.method == "DELETE":
            del self.objects[request.path]
        if request.method == "PATCH":
            for name, value in request.body["metadata"].items():
                body["metadata"][name] = value
        if request.method == "GET":
            self.looks += 1
            self.act(self, body)
        return 200, body

    def _create(self, request: Request) -> Answer:
        if self.admission:
            return _status(403, f'admission webhook "validator.trainer" denied the request: {self.admission}')
        if request.query.get("fieldValidation") == "Strict" and (
            wrong := self.unknown_fields & request.body["spec"].keys()
        ):
            return _status(400, f'strict decoding error: unknown field "spec.{min(wrong)}"')
        path = f"{request.path}/{request.body['metadata']['name']}"
        if path in self.objects:
            return _status(409, "already exists")
        self.objects[path] = json.loads(json.dumps(request.body))
        return 201, request.body

    def _log(self, pod: str, since: str) -> Answer:
        # As kubelet does: from this second on, the line itself included.
        lines = [line for line in self.logs.get(pod, []) if line.split(" ")[0][:19] >= since[:19]]
        return 200, "".join(f"{line}\n" for line in lines)


def _status(code: int, message: str) -> Answer:
    return code, {"kind": "Status", "status": "Failure", "code": code, "message": message}


@contextmanager
def running(cluster: Cluster) -> Iterator[str]:
    """The server's URL while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            url = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            request = Request(self.command, url.path, query, body)
            with cluster.lock:
                cluster.requests.append(request)
                broken = cluster.breaks.pop(0) if cluster.breaks else ""
                code, content = (
                    (503, {"message": "the server is busy"}) if broken == "busy" else cluster.answer(request)
                )
            if broken == "closed":
                self.close_connection = True
                return
            text = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text[: len(text) // 2] if broken == "half" else text)
            self.close_connection = broken == "half"

        do_GET = do_POST = do_PATCH = do_DELETE = _serve

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def api(url: str) -> Api:
    """A client of that server."""
    settings: Any = kubernetes.client.Configuration(host=url)
    settings.retries = False
    return Api(NAMESPACE, kubernetes.client.ApiClient(settings))


def pod(
    name: str, job: str, phase: str = "Running", label: str = "jobset.sigs.k8s.io/jobset-name", **status: Any
) -> dict[str, Any]:
    """A pod of a launched object; `status` are further fields of its status."""
    return {
        "metadata": {"name": f"{job}-{name}", "labels": {label: job}},
        "spec": {"containers": [{"name": "node", "image": "limaml:1"}]},
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": "node", "image": "limaml:1", "state": {"running": {}}}],
            **status,
        },
    }
