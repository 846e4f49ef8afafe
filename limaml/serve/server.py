"""uvicorn around the application: workers, and an end in which no request is lost."""

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from limaml.config import Application, application_from_parameter
from limaml.errors import ConfigError
from limaml.online.store import open_store
from limaml.serve import logs
from limaml.serve.app import create_app
from limaml.serve.exposures import spool_folder
from limaml.serve.guard import token_of
from limaml.serve.service import Service

# How long requests under way may take once nothing new is accepted.
FINISH_SECONDS = 30
# A worker answers its supervisor once torch is imported, which on a busy machine takes a while.
START_SECONDS = 120
# So long a request waits for its turn while a release is loaded beside it; Python's own 5 ms are half its budget.
SWITCH_SECONDS = 0.0005


@dataclass(frozen=True)
class _Factory:
    """Makes the application in the process it is to live in; plain values, so that it can travel there."""

    application: str
    store_url: str

    def __call__(self) -> FastAPI:
        logs.configure()
        sys.setswitchinterval(SWITCH_SECONDS)
        application = application_from_parameter(self.application)
        return create_app(open_store(self.store_url, application.name), application, drained)


@contextmanager
def drained(service: Service) -> Iterator[None]:
    """On SIGTERM the service is no longer ready but still answers, until load balancers have looked away.

    Only then is the signal the server's; a second one is at once.
    """
    loop, servers = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    assert callable(servers), "the server takes signals before it starts the application"

    def wait(number: int, frame: FrameType | None) -> None:
        if service.drained_since is not None:
            servers(number, frame)
            return
        service.drained_since = time.monotonic()
        seconds = service.application.serve.drain_seconds
        loop.call_soon_threadsafe(loop.call_later, seconds, servers, number, frame)

    signal.signal(signal.SIGTERM, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, servers)


def serve(application: Application, store_url: str, host: str, port: int, workers: int) -> None:
    """Serve until told to end.

    Raises:
        ConfigError: the address can't be bound, the store's URL is of no known kind, the bearer token is not set, or
            exposures have no local place to wait in.
        StorageError: nor one that can be written.
    """
    token_of(application)
    open_store(store_url, application.name)
    if application.experiment.exposures.url:
        spool_folder(application)
    config = uvicorn.Config(
        _Factory(application.model_dump_json(), store_url),
        factory=True,
        workers=workers,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=FINISH_SECONDS,
        timeout_worker_healthcheck=START_SECONDS,
    )
    with _listen(host, port) as listener:
        logs.configure()
        logs.logger().info("listening", host=host, port=listener.getsockname()[1], workers=workers)
        if workers == 1:
            uvicorn.Server(config).run(sockets=[listener])
            return
        meeting = tempfile.mkdtemp(prefix="limaml-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = meeting
        try:
            Multiprocess(config, [listener]).run()
        finally:
            shutil.rmtree(meeting, ignore_errors=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"can't listen on {host} port {port}: {error}; choose another --port or --host") from error
