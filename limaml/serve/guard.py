"""What every request passes before it is read: token, rate, size, and afterwards what its end is called.

A refusal is an answer of one form, `{"error": "…"}`, that says what was wrong. Whatever goes wrong inside is one too;
its text stays out of the logs, since it may quote the request.
"""

import asyncio
import hmac
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from limaml.config import Application
from limaml.errors import ConfigError, DataError
from limaml.serve.logs import logger, where
from limaml.serve.metrics import Metrics
from limaml.serve.service import NotReady, Service

Handler = Callable[[Request, bytes], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]

# A body that has not come by then is not coming.
BODY_SECONDS = 10.0
_LATE = "late"


class Refused(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer as JSON."""
    return Response(orjson.dumps(content), status, headers, "application/json")


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal."""
    return json_response({"error": message}, status, headers)


def token_of(application: Application) -> bytes:
    """The `Authorization` header that requests must bring; empty where none is asked for.

    Raises:
        ConfigError: the variable that should hold the token is not set.
    """
    name = application.serve.token_variable
    if name and not os.environ.get(name):
        raise ConfigError(f"serve.token_variable: the environment variable {name} is not set; put the token there")
    return f"Bearer {os.environ[name]}".encode() if name else b""


class Guard:
    """Wraps handlers of one worker's requests."""

    def __init__(self, application: Application, service: Service, metrics: Metrics) -> None:
        """Read the token.

        Raises:
            ConfigError: the variable that should hold it is not set.
        """
        self._settings = application.serve
        self._service = service
        self._metrics = metrics
        self._rate = Rate(self._settings.requests_per_second)
        self._under_way = 0
        self._token = token_of(application)

    def permit(self, request: Request) -> None:
        """Check the token.

        Raises:
            Refused: it is missing or another one.
        """
        if self._token and not hmac.compare_digest(request.headers.get("authorization", "").encode(), self._token):
            raise Refused(401, "give the bearer token: Authorization: Bearer …", {"www-authenticate": "Bearer"})

    def around(self, path: str, handler: Handler) -> Endpoint:
        """An endpoint that admits a request, reads its body, hands it to `handler` and accounts for its end."""
        seconds = self._metrics.seconds.labels(path)

        async def endpoint(request: Request) -> Response:
            started = time.perf_counter()
            self._under_way += 1
            self._metrics.in_flight.inc()
            try:
                response = await self._answer(request, handler)
            finally:
                self._under_way -= 1
                self._metrics.in_flight.dec()
            seconds.observe(time.perf_counter() - started)
            self._metrics.requests.labels(path, str(response.status_code)).inc()
            if self._service.drained_since is not None:
                response.headers["connection"] = "close"
            if self._settings.access_log:
                took = round((time.perf_counter() - started) * 1e3, 3)
                logger().info("request", path=path, status=response.status_code, milliseconds=took)
            return response

        return endpoint

    async def _answer(self, request: Request, handler: Handler) -> Response:
        try:
            self.permit(request)
            self._admit()
            return await handler(request, await self._body(request))
        except Refused as refused:
            return error_response(refused.status, str(refused), refused.headers)
        except DataError as error:
            return error_response(422, str(error))
        except NotReady:
            return error_response(503, "no release is loaded yet; ask /v2/health/ready", {"retry-after": "1"})
        except ClientDisconnect:
            return error_response(400, "the connection closed before the request was whole")
        except Exception as error:  # noqa: BLE001 (the last place before the server, which would log its text)
            logger().error("request_failed", error=type(error).__name__, where=where(error))
            return error_response(500, "internal error; the log has the place")

    def _admit(self) -> None:
        limit = self._settings.maximum_in_flight
        if self._under_way > limit:
            raise Refused(429, f"more than {limit} requests at once; try again", {"retry-after": "1"})
        if not self._rate.allows():
            allowed = self._settings.requests_per_second
            raise Refused(429, f"more than {allowed:g} requests a second; slow down", {"retry-after": "1"})

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.maximum_request_bytes
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Refused(415, f"content-encoding {encoding[:40]!r}: send the body as it is")
        parts: list[bytes] = []
        size, more = 0, True
        # A timer of the loop: what asyncio has for it costs five times as much, and nearly always for nothing.
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        late = loop.call_later(BODY_SECONDS, task.cancel, _LATE)
        try:
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise _too_long(limit)
                parts.append(part)
                more = message.get("more_body", False)
        except asyncio.CancelledError as error:
            if error.args != (_LATE,):
                raise
            task.uncancel()
            raise Refused(408, f"the body was not there after {BODY_SECONDS:g} s") from None
        finally:
            late.cancel()
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_long(limit: int) -> Refused:
    return Refused(
        413, f"the body is longer than {limit} bytes (serve.maximum_request_bytes); ask for fewer candidates"
    )


class Rate:
    """A token bucket that holds one second's worth; 0 lets everything pass."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._room = max(1.0, per_second)
        self._left = self._room
        self._clock = clock
        self._at = clock()

    def allows(self) -> bool:
        """Take one, where one is left."""
        if not self._per_second:
            return True
        now = self._clock()
        self._left = min(self._room, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
