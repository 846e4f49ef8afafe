"""The service over a real release: in a thread with its own port, or called as an ASGI application."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
import urllib3
import uvicorn
from fastapi import FastAPI

from limaml.config import Application, parse_application
from limaml.online.store import Store, open_store
from limaml.serve.app import create_app
from tests.conftest import SMALL
from tests.limaml.online.chain import Chain, build_chain
from tests.limaml.online.served import Served

META = ("member_x0", "member_x1", "member_kind")
OTHER = ("item_x0", "item_x1", "notification_type")


@dataclass(frozen=True)
class Reply:
    """An answer as the wire brings it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Client:
    """A caller of one running service."""

    def __init__(self, port: int, app: FastAPI) -> None:
        self.port, self.app = port, app
        self._pool = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=16, retries=False)

    def get(self, path: str, **headers: str) -> Reply:
        return self._reply(self._pool.request("GET", path, headers=headers))

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return self._reply(self._pool.request("POST", path, body=data, headers=headers))

    def score(self, body: Any, **headers: str) -> Reply:
        return self.post("/v1/score", body, **headers)

    def metric(self, name: str) -> float:
        """The value of one line of /metrics; 0 where nothing was counted yet."""
        lines = self.get("/metrics").body.decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), 0.0)

    @staticmethod
    def _reply(response: urllib3.BaseHTTPResponse) -> Reply:
        return Reply(response.status, {k.lower(): v for k, v in response.headers.items()}, response.data)


def with_serve(application: Application, **changes: Any) -> Application:
    """The application with other settings of the service; it polls often, so that tests need not wait."""
    return application.model_copy(
        update={"serve": application.serve.model_copy(update={"poll_seconds": 0.05, **changes})}
    )


@contextmanager
def running(application: Application, store: Store) -> Iterator[Client]:
    """The service on a free port, once it is ready."""
    app = create_app(store, application)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    client = Client(server.servers[0].sockets[0].getsockname()[1], app)
    try:
        yield client
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)


def request_of(served: Served, member: int, items: int = 12) -> dict[str, Any]:
    """A /v1/score request: a member of the log, and items of it."""
    rows = served.chain.rows
    own = rows.filter(pa.array(rows["member_id"].to_numpy() == member)).slice(0, 1).to_pylist()[0]
    return {
        "task": {"member_id": member},
        "features": {name: own[name] for name in META},
        "candidates": served.candidates(items).select(["item_id", *OTHER]).to_pylist(),
    }


def as_table(request: dict[str, Any]) -> pa.Table:
    """The same request as a table."""
    shared = {**request.get("task", {}), **request.get("features", {})}
    return pa.Table.from_pylist([{**shared, **candidate} for candidate in request["candidates"]])


async def asgi(app: FastAPI, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
    """One request without a socket."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
    }
    sent: list[dict[str, Any]] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    reply_headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], reply_headers, b"".join(part.get("body", b"") for part in sent[1:]))


def serving(application: Application, store: Store) -> FastAPI:
    """The application with its release loaded, without a server."""
    app = create_app(store, application)
    assert asyncio.run(app.state.service.refresh())
    return app


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return build_chain(tmp_path_factory.mktemp("chain"), parse_application(SMALL, "tests"))


@pytest.fixture(scope="module")
def served(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A release that no test changes."""
    return Served(chain, tmp_path_factory.mktemp("served"))


@pytest.fixture
def fresh(chain: Chain, tmp_path: Path) -> Served:
    """A release that a test may follow with others."""
    return Served(chain, tmp_path)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Client]:
    """The service over `served`."""
    with running(with_serve(served.application), open_store(served.url, "small")) as client:
        until(lambda: client.get("/v2/health/ready").status == 200)
        yield client


def lines(text: str) -> list[dict[str, Any]]:
    """Log lines as objects."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
