"""`limaml serve` as a process: its workers, its logs and its end."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from fastapi import FastAPI

from limaml.errors import ConfigError
from limaml.online.store import open_store
from limaml.serve.server import serve
from tests.conftest import SMALL
from tests.limaml.online.served import Served
from tests.limaml.serve.conftest import Client, lines, request_of, running, until, with_serve


class Process:
    """A running command."""

    def __init__(
        self, served: Served, folder: Path, workers: int, experiment: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        path = folder / "small.yaml"
        content = SMALL | {"store": {"url": served.url}, "serve": settings, "experiment": experiment}
        path.write_text(yaml.safe_dump(content))
        self._log = (folder / "log").open("w+")
        command = "from pipelines.cli import main; import sys; sys.argv[0] = 'limaml'; main()"
        arguments = ["serve", "--app", str(path), "--workspace", str(folder), "--port", str(port)]
        self.popen = subprocess.Popen(
            [sys.executable, "-c", command, *arguments, "--workers", str(workers)],
            stderr=self._log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.client = Client(port, FastAPI())
        until(self.ready, 90)

    def ready(self) -> bool:
        assert self.popen.poll() is None, self.log
        try:
            return self.client.get("/v2/health/ready").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def end(self) -> int:
        """Tell it to end, and wait until it has."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(40)

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            self.popen.wait(40)
        self._log.close()


@contextmanager
def process(
    served: Served, folder: Path, workers: int = 1, experiment: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Process]:
    running = Process(served, folder, workers, experiment or {}, settings)
    try:
        yield running
    finally:
        running.kill()


def test_drains_without_losing_a_request_and_logs_no_member(fresh: Served, tmp_path: Path) -> None:
    folder = tmp_path / "process"
    folder.mkdir()
    statuses: list[int] = []
    failed: list[Exception] = []
    closing = threading.Event()
    asked = request_of(fresh, 3) | {"task": {"member_id": "member-4711"}}
    wrong = request_of(fresh, 3) | {"task": {"member_id": ["member-4711"]}}

    with process(fresh, folder, drain_seconds=1.5, access_log=True) as service:
        service.client.score(wrong)

        def ask() -> None:
            # A caller that looks away once it is told to, as a load balancer does.
            while not closing.is_set():
                try:
                    reply = service.client.score(asked)
                except urllib3.exceptions.HTTPError as error:
                    failed.append(error)
                    return
                statuses.append(reply.status)
                if reply.headers.get("connection") == "close":
                    closing.set()

        callers = [threading.Thread(target=ask) for _ in range(3)]
        for each in callers:
            each.start()
        until(lambda: len(statuses) > 50)
        service.popen.send_signal(signal.SIGTERM)
        for each in callers:
            each.join()
        assert closing.is_set(), "answers say that the connection ends"
        assert service.client.get("/v2/health/ready").status == 503, "it is no longer ready, but still there"
        assert service.client.get("/v2/health/live").status == 200
        assert service.client.score(asked).status == 200
        assert service.popen.wait(40) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        log = service.log
    assert failed == []
    assert set(statuses) == {200}
    events = [line["event"] for line in lines(log)]
    assert len(lines(log)) == len(log.splitlines()), "every line is one JSON object"
    assert {"listening", "release_serving", "request"} <= set(events)
    assert {line["status"] for line in lines(log) if line["event"] == "request"} == {200, 422}
    assert "4711" not in log
    assert not any(name in log for name in ("item_x0", "kind-"))


def test_workers_share_a_port_and_add_up_their_metrics(fresh: Served, tmp_path: Path) -> None:
    folder = tmp_path / "process"
    folder.mkdir()
    with process(fresh, folder, workers=2, drain_seconds=0.0) as service:
        until(lambda: sum("release_serving" in line for line in service.log.splitlines()) == 2, 90)
        # A connection is one worker's: many connections meet both.
        for _ in range(40):
            assert Client(service.client.port, FastAPI()).score(request_of(fresh, 3, 1)).status == 200
        assert service.client.metric('limaml_requests_total{path="/v1/score",status="200"}') == 40
        assert service.client.metric("limaml_ready") == 1
        started = time.monotonic()
        assert service.end() == 0
        assert time.monotonic() - started < 20


def test_what_can_not_start_says_why(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH", raising=False)
    asked = with_serve(served.application, token_variable="NO_SUCH")
    with pytest.raises(ConfigError, match="variable NO_SUCH is not set"):
        serve(asked, served.url, "127.0.0.1", 0, 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"can't listen on 127.0.0.1 port {port}"):
            serve(served.application, served.url, "127.0.0.1", port, 1)


def test_an_internal_error_is_logged_by_its_place(
    served: Served, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    text = "member-4711"
    with running(with_serve(served.application), open_store(served.url, "small")) as client:
        until(lambda: client.get("/v2/health/ready").status == 200)

        def broken(*_: object) -> None:
            raise RuntimeError(text)

        object.__setattr__(client.app.state.service.pinned, "runtime", type("Broken", (), {"score": broken})())
        reply = client.score(request_of(served, 3))
    assert (reply.status, reply.json) == (500, {"error": "internal error; the log has the place"})
    shown = caplog.text + "".join(capsys.readouterr())
    assert text not in shown
    assert "request_failed" in shown
    assert "broken" in shown
