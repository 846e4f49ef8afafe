"""The HTTP application: routes, their lives and their descriptions."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from importlib.metadata import version

import torch
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from limaml.config import Application
from limaml.online.columns import Columns, Encoder
from limaml.online.store import Store
from limaml.serve import descriptions, inference_protocol, plain
from limaml.serve.guard import Endpoint, Guard, Refused, error_response, json_response
from limaml.serve.metrics import Metrics
from limaml.serve.service import Answer, NotReady, Service


def create_app(
    store: Store,
    application: Application,
    around: Callable[[Service], AbstractContextManager[None]] = nullcontext,
) -> FastAPI:
    """The service of one application over its store; `around` it lives. `app.state.service` is what answers.

    Raises:
        ConfigError: the bearer token is not set.
    """
    metrics = Metrics(application.name)
    service = Service(store, application, metrics)
    routes = _Routes(application, service, metrics, Guard(application, service, metrics))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # One request is one core's work: more threads would only wait for each other.
        torch.set_num_threads(1)
        following = asyncio.create_task(service.follow())
        with around(service):
            yield
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        service.close()

    app = FastAPI(
        title=f"limaml: {application.title}",
        description=application.description,
        version=version("limaml"),
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )
    app.state.service = service
    routes.add_to(app)
    return app


class _Shortcut:
    """Hands the requests that are waited for straight to their handlers: routing would cost as much as the network."""

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Endpoint]) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] == "POST"
        endpoint = self._endpoints.get(scope["path"]) if asked else None
        if endpoint is None:
            await self._app(scope, receive, send)
        else:
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)


class _Routes:
    """Handlers of one application's requests."""

    def __init__(self, application: Application, service: Service, metrics: Metrics, guard: Guard) -> None:
        self._application = application
        self._service = service
        self._metrics = metrics
        self._guard = guard
        self._plain = plain.PlainRequests(application)
        self._encoder = Encoder(application)
        self._maximum = application.serve.maximum_candidates
        self._deadline = application.serve.deadline_ms / 1e3

    def add_to(self, app: FastAPI) -> None:
        described = descriptions.of(self._application)
        model = f"/v2/models/{self._application.name}"
        versioned = model + "/versions/{model_version}"
        endpoints: dict[str, Endpoint] = {}
        for path, handler in (
            ("/v1/score", self.score),
            (f"{model}/infer", self.infer),
            (f"{versioned}/infer", self.infer),
        ):
            endpoint = self._guard.around(path, handler)
            app.add_api_route(path, endpoint, methods=["POST"], **described[handler.__name__])
            if path != f"{versioned}/infer":  # whose version only the router can tell
                endpoints[path] = endpoint
        app.add_middleware(_Shortcut, endpoints=endpoints)
        for path, handler in (
            ("/v2", self.server_metadata),
            ("/v2/health/live", self.live),
            ("/v2/health/ready", self.ready),
            (model, self.model_metadata),
            (versioned, self.model_metadata),
            (f"{model}/ready", self.model_ready),
            (f"{versioned}/ready", self.model_ready),
            ("/metrics", self.text_metrics),
        ):
            app.add_api_route(path, handler, methods=["GET"], **described[handler.__name__])

    async def score(self, request: Request, body: bytes) -> Response:
        deadline, started = self._until(request), time.perf_counter()
        columns = self._plain.columns(plain.parse(body))
        answer, scored = await self._answer(request, columns, deadline, started)
        content = plain.answer_of(self._application, answer, columns)
        self._metrics.postprocess.observe(time.perf_counter() - scored)
        return Response(content, media_type="application/json")

    async def infer(self, request: Request, body: bytes) -> Response:
        self._check_version(request)
        deadline, started = self._until(request), time.perf_counter()
        length = request.headers.get(inference_protocol.HEADER_LENGTH)
        inference = inference_protocol.inference_of(body, length, self._maximum)
        answer, scored = await self._answer(request, inference.columns, deadline, started)
        content, headers = inference_protocol.answer_of(self._application, inference, answer)
        self._metrics.postprocess.observe(time.perf_counter() - scored)
        return Response(content, headers=headers)

    async def _answer(
        self, request: Request, columns: Columns, deadline: float, started: float
    ) -> tuple[Answer, float]:
        candidates = self._encoder.candidates(columns)
        encoded = time.perf_counter()
        self._metrics.preprocess.observe(encoded - started)
        arms = self._service.arms
        assigned = arms.assign(columns)
        answer = await self._service.answer(candidates, deadline, assigned.served)
        exposed = arms.record(request.headers.get(REQUEST_ID), columns, candidates, answer.scores, assigned)
        answer = replace(answer, exposed=exposed)
        scored = time.perf_counter()
        self._metrics.predict.observe(scored - encoded)
        return answer, scored

    def _until(self, request: Request) -> float:
        """When the store is no longer waited for, on the loop's clock."""
        asked = request.headers.get(DEADLINE)
        seconds = self._deadline
        if asked is not None:
            if not (asked.isascii() and asked.isdecimal() and int(asked[:9]) > 0):
                raise Refused(422, f"{DEADLINE} {asked[:20]!r}: give milliseconds, a whole number above 0")
            seconds = min(seconds, int(asked[:9]) / 1e3)
        return asyncio.get_running_loop().time() + seconds

    def _check_version(self, request: Request) -> None:
        asked, pinned = request.path_params.get("model_version"), self._service.pinned
        if pinned is None:
            raise NotReady
        if asked is not None and asked != pinned.release.model_version:
            raise Refused(404, f"version {asked[:40]!r} is not served; {pinned.release.model_version} is")

    async def server_metadata(self) -> Response:
        return json_response(
            {"name": "limaml", "version": version("limaml"), "extensions": list(inference_protocol.EXTENSIONS)}
        )

    async def live(self) -> Response:
        return json_response({"live": True})

    async def ready(self) -> Response:
        return json_response({"ready": self._service.routable}, 200 if self._service.routable else 503)

    async def model_ready(self, request: Request) -> Response:
        try:
            self._check_version(request)
        except NotReady:
            pass
        except Refused as refused:
            return error_response(refused.status, str(refused))
        ready = self._service.ready
        return json_response({"name": self._application.name, "ready": ready}, 200 if ready else 503)

    async def model_metadata(self, request: Request) -> Response:
        try:
            self._check_version(request)
        except NotReady:
            return error_response(503, "no release is loaded yet")
        except Refused as refused:
            return error_response(refused.status, str(refused))
        pinned = self._service.pinned
        assert pinned is not None
        return json_response(inference_protocol.model_metadata(self._application, pinned.release))

    async def text_metrics(self) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


DEADLINE = "x-deadline-ms"
REQUEST_ID = "x-request-id"


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, str(error.detail), dict(error.headers or {}))
