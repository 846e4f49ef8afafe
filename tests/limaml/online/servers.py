"""Real servers for the tests: Redis on a free port, that can be stopped and started again on the same one."""

import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest
import redis


class RedisServer:
    """One `redis-server` process. What it was told to save before it stops is there when it starts again."""

    def __init__(self, folder: Path, *options: str) -> None:
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            pytest.skip("redis-server is not installed: `make servers` installs it")
        self.port = 0
        self._command = [
            binary,
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
            "--save",
            "",
            "--appendonly",
            "no",
            *options,
        ]

    @property
    def url(self) -> str:
        """The store's URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A plain client."""
        return redis.Redis(port=self.port, socket_timeout=10)

    def start(self) -> None:
        """Start, and wait until it answers; the first time on a free port, later on the same one."""
        for _ in range(20):
            # Below what the system gives out by itself, and so low that a cluster's second port, 10,000 above, exists.
            port = self.port or random.randrange(15_000, 30_000)
            self._process = subprocess.Popen([*self._command, "--port", str(port)], stdout=subprocess.DEVNULL)
            if self._answers(port):
                self.port = port
                return
            self.stop()
        raise RuntimeError("redis-server did not start")

    def _answers(self, port: int) -> bool:
        while self._process.poll() is None:
            try:
                # Another server may hold the port, and answer.
                return redis.Redis(port=port).info("server")["process_id"] == self._process.pid
            except redis.ConnectionError:
                time.sleep(0.05)
        return False

    def stop(self) -> None:
        """End the process at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class RedisCluster:
    """Three primaries that share the slots: whatever touches two slots at once fails here."""

    def __init__(self, folder: Path) -> None:
        self._servers = []
        for number in range(3):
            (place := folder / str(number)).mkdir()
            options = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "yes"]
            self._servers.append(RedisServer(place, *options))

    @property
    def url(self) -> str:
        """The store's URL, through the first node."""
        return f"{self._servers[0].url.removesuffix('/0')}?cluster=true"

    def clear(self) -> None:
        """Empty every node."""
        for server in self._servers:
            server.client().flushall()

    def __enter__(self) -> Self:
        bounds = [0, 5461, 10923, 16384]
        for server, first, end in zip(self._servers, bounds, bounds[1:], strict=False):
            server.start()
            server.client().execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            server.client().execute_command("CLUSTER", "MEET", "127.0.0.1", self._servers[0].port)
        for _ in range(400):
            if all(b"cluster_known_nodes:3" in self._info(server) for server in self._servers) and all(
                b"cluster_state:ok" in self._info(server) for server in self._servers
            ):
                return self
            time.sleep(0.05)
        raise RuntimeError("the Redis cluster was not ready within 20 s")

    def __exit__(self, *error: object) -> None:
        for server in self._servers:
            server.stop()

    def _info(self, server: RedisServer) -> bytes:
        told = server.client().execute_command("CLUSTER", "INFO")
        return told if isinstance(told, bytes) else repr(told).replace("'", "").replace(": ", ":").encode()
