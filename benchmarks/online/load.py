"""Requests over raw sockets, at a few tens of microseconds each, so that their sender is not the bottleneck.

Latencies are seconds. An open loop counts from when a request was due, whether or not a connection was free then.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_COARSE_SECONDS = 0.002
# Answers wait this long to be read at most, which counts as theirs; without naps the sender would fill a core.
_NAP_SECONDS = 0.0002


def post(path: str, body: bytes) -> bytes:
    """An HTTP request, ready to be sent again and again."""
    head = (
        f"POST {path} HTTP/1.1",
        "host: benchmark",
        "content-type: application/json",
        f"content-length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._due = 0
        self._waiting: asyncio.Future[bytes] | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """A connection to this machine."""
        _, protocol = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self, request: bytes) -> bytes:
        """Send it and wait for the whole answer's body; anything but 200 is an error."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._due:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            self._start, self._due = end + 4, end + 4 + length
            self._good = head.startswith(b"http/1.1 200")
        if len(self._buffer) >= self._due:
            body, good = bytes(self._buffer[self._start : self._due]), self._good
            self._buffer.clear()
            self._due = 0
            assert self._waiting is not None
            if good:
                self._waiting.set_result(body)
            else:
                self._waiting.set_exception(RuntimeError(body.decode()))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


async def saturate(port: int, requests: Sequence[bytes], seconds: float, connections: int = 8) -> float:
    """Requests a second of a closed loop that always has so many under way."""
    pool = [await Connection.open(port) for _ in range(connections)]
    done, end = 0, time.perf_counter() + seconds

    async def loop(number: int) -> None:
        nonlocal done
        at = number
        while time.perf_counter() < end:
            await pool[number].ask(requests[at % len(requests)])
            at += connections
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(loop(number) for number in range(connections)))
    elapsed = time.perf_counter() - started
    for connection in pool:
        connection.close()
    return done / elapsed


async def at_rate(
    port: int, requests: Sequence[bytes], rate: float, seconds: float, connections: int = 64, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Latencies of an open loop with Poisson arrivals, each sent when it is due."""
    pool = deque([await Connection.open(port) for _ in range(connections)])
    every = list(pool)
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    latencies: list[float] = []
    queue: deque[tuple[int, float]] = deque()
    loop = asyncio.get_running_loop()
    started = loop.time() + 0.05
    due = started + np.cumsum(gaps)
    finished = loop.create_future()

    async def send(connection: Connection, number: int, at: float) -> None:
        await connection.ask(requests[number % len(requests)])
        latencies.append(loop.time() - at)
        while queue:
            number, at = queue.popleft()
            await connection.ask(requests[number % len(requests)])
            latencies.append(loop.time() - at)
        pool.append(connection)
        if len(latencies) == len(due) and not finished.done():
            finished.set_result(None)

    tasks: set[asyncio.Task[None]] = set()
    for number, at in enumerate(due.tolist()):
        # A sleep ends up to a millisecond late, which would send in handfuls what is due one by one.
        while (wait := at - loop.time()) > 0:
            if wait > _COARSE_SECONDS:
                await asyncio.sleep(wait - _COARSE_SECONDS)
            else:
                time.sleep(min(wait, _NAP_SECONDS))
                await asyncio.sleep(0)
        if pool:
            task = asyncio.create_task(send(pool.popleft(), number, at))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            queue.append((number, at))
    await asyncio.wait_for(finished, 60)
    for connection in every:
        connection.close()
    return np.array(latencies)
