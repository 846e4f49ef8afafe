"""The scorer over HTTP: what embeddings cost a served request, latency at 70 % of saturation, and the bare minimum.

    python -m benchmarks.online.http [--quick] [--json]

Servers run in processes of their own, one worker each, on an embedded store of 100,000 members; requests come from
this process by raw sockets. `pclick_user`'s features (8 of the member, 15 of the item) and default network.

- `score_with_over_without_p50`, `…_p99`: a served request's latency over that of the same service with a constant in
  the place of embeddings; the worse of 1 and 50 candidates. One process answers by blocks of requests in turn: two of
  the same program differ by up to a tenth, for as long as they live, by where they happen to lie in memory. `served`
  has each, and what it cost the server.
- `saturation_per_second`: the highest rate of Poisson arrivals at which no queue grows, by bisection.
- `p99_ms_50_candidates`: open loop, Poisson arrivals at 70 % of it, in proportion to the closed loop just before; the
  median of several windows, each listed in `p99_ms_windows`.
- `closed_loop_per_second`: answers a second to eight connections that each ask as soon as they are answered. Requests
  that wait for each other come in handfuls, which costs less than the same number one by one.
- `saturation_over_bare`: that over the same of a FastAPI handler that does the same arithmetic and nothing else.
"""

import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil

from benchmarks.online import world
from benchmarks.online.load import Connection, at_rate, post, saturate
from benchmarks.reporting import command

CANDIDATES = (1, 50)
SHARE = 0.7
SHARES = (0.3, 0.5, SHARE)
_REQUESTS = 500
_BLOCK = 100
KINDS = ("with", "without")
# A rate is too high once half of the last requests of a window wait longer: tens of times what one takes.
QUEUE_SECONDS = 0.02
BISECTIONS = 6
WINDOWS = 9


@contextmanager
def serving(folder: Path, kind: str) -> Iterator[tuple[int, psutil.Process]]:
    """A server of `benchmarks.online.server`: its port and process, once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.online.server", str(folder), kind, str(port)])
    try:
        _wait(port, process)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    request = b"GET /v2/health/ready HTTP/1.1\r\nhost: benchmark\r\n\r\n"
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as probe:
                probe.sendall(request)
                if probe.recv(100).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError("the server did not become ready")


def requests(candidates: int) -> list[bytes]:
    """Requests of many members, as bytes to send."""
    app = world.application()
    members = range(0, world.TASKS, world.TASKS // _REQUESTS)
    return [post("/v1/score", orjson.dumps(world.request(app, member, candidates))) for member in members]


def compare(folder: Path, rounds: int) -> dict[str, Any]:
    """Latency and server CPU with and without embeddings."""
    with serving(folder, "either") as (port, process):
        return {
            str(candidates): _compared(asyncio.run(_in_turn(port, process, requests(candidates), rounds)))
            for candidates in CANDIDATES
        }


async def _in_turn(
    port: int, process: psutil.Process, sent: Sequence[bytes], rounds: int
) -> dict[str, tuple[np.ndarray, float]]:
    """Latencies and server CPU seconds a request of a server that answers by blocks with and without embeddings."""
    connection = await Connection.open(port)
    latency: dict[str, list[float]] = {kind: [] for kind in KINDS}
    cpu: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    order = np.random.default_rng(0)
    for first in range(-min(len(sent), rounds), rounds, _BLOCK):
        for kind in order.permutation(KINDS).tolist():
            await connection.ask(post(f"/answer/{kind}", b""))
            before, found = _cpu(process), []
            for turn in range(first, first + _BLOCK):
                started = time.perf_counter()
                await connection.ask(sent[turn % len(sent)])
                found.append(time.perf_counter() - started)
            # What comes before round 0 is warming up.
            if first >= 0:
                cpu[kind] += _cpu(process) - before
                latency[kind] += found
    connection.close()
    return {kind: (np.array(each), cpu[kind] / rounds) for kind, each in latency.items()}


def _compared(found: dict[str, tuple[np.ndarray, float]]) -> dict[str, Any]:
    """Microseconds by kind, and their ratios."""
    figures: dict[str, Any] = {}
    for q in (50, 99):
        figures[f"p{q}"] = {kind: 1e6 * float(np.percentile(each, q)) for kind, (each, _) in found.items()}
    figures["cpu"] = {kind: 1e6 * cpu for kind, (_, cpu) in found.items()}
    result: dict[str, Any] = {}
    for what, each in figures.items():
        result[f"us_{what}"] = {kind: round(value, 1) for kind, value in each.items()}
        result[f"ratio_{what}"] = round(each["with"] / each["without"], 3)
    return result


def _cpu(process: psutil.Process) -> float:
    """Seconds that the server's one thread has run; the usual counters are too coarse for a block."""
    return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / 1e9


def saturation(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Requests a second of the product and of the bare handler, in turn."""
    found: dict[str, list[float]] = {"with": [], "bare": []}
    sent = requests(50)
    with serving(folder, "with") as ours, serving(folder, "bare") as theirs:
        ports = {"with": ours[0], "bare": theirs[0]}
        for port in ports.values():
            asyncio.run(saturate(port, sent, 1.0))
        for _ in range(rounds):
            for name, port in ports.items():
                found[name].append(asyncio.run(saturate(port, sent, seconds)))
        closed = statistics.median(found["with"])
        rate = _highest_rate(ports["with"], sent, closed, seconds)
        windows = {
            share: [_window(ports["with"], sent, share * rate / closed, 2 * seconds, n) for n in range(WINDOWS)]
            for share in SHARES
        }
    ratios = [a / b for a, b in zip(found["with"], found["bare"], strict=True)]
    return {
        "saturation_per_second": round(rate),
        "closed_loop_per_second": round(closed),
        "bare_per_second": round(statistics.median(found["bare"])),
        "saturation_over_bare": round(statistics.median(ratios), 3),
        "p50_ms_50_candidates": _median_ms(windows[SHARE], 50),
        "p99_ms_50_candidates": _median_ms(windows[SHARE], 99),
        "p99_ms_windows": [round(1e3 * float(np.percentile(each, 99)), 2) for each in windows[SHARE]],
        "p99_ms_by_share": {str(share): _median_ms(each, 99) for share, each in windows.items()},
    }


def _highest_rate(port: int, sent: Sequence[bytes], closed: float, seconds: float) -> float:
    """Requests a second of Poisson arrivals, at most the rate of the closed loop, at which no queue grows."""
    low, high = 0.25 * closed, closed
    for _ in range(BISECTIONS):
        rate = (low + high) / 2
        kept_up = [_keeps_up(asyncio.run(at_rate(port, sent, rate, seconds, seed=seed))) for seed in range(3)]
        low, high = (rate, high) if sum(kept_up) > 1 else (low, rate)
    return low


def _window(port: int, sent: Sequence[bytes], share: float, seconds: float, seed: int) -> np.ndarray:
    """Latencies at a share of what a closed loop reaches now: a shared machine drifts by a quarter in minutes."""
    closed = asyncio.run(saturate(port, sent, seconds / 4))
    return asyncio.run(at_rate(port, sent, share * closed, seconds, seed=seed))


def _keeps_up(latency: np.ndarray) -> bool:
    """Whether what was asked in the last quarter of a window was not still waiting for what came before."""
    return float(np.median(latency[-len(latency) // 4 :])) < QUEUE_SECONDS


def _median_ms(windows: Sequence[np.ndarray], q: float) -> float:
    return round(1e3 * statistics.median(float(np.percentile(each, q)) for each in windows), 2)


def measure(quick: bool) -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as temporary:
        folder = Path(temporary)
        world.build(folder, world.application())
        served = compare(folder, 1000 if quick else 20_000)
        figures = saturation(folder, 1.0 if quick else 3.0, 3 if quick else 7)
    worst = {f"score_with_over_without_p{q}": max(each[f"ratio_p{q}"] for each in served.values()) for q in (50, 99)}
    return {**worst, **figures, "served": served}


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """The figures as lines of a table: what, figure, peer, ratio."""
    lines: list[list[Any]] = []
    for candidates, each in result["served"].items():
        for q in (50, 99):
            ours, theirs = (each[f"us_p{q}"][kind] for kind in KINDS)
            name = f"served request, {candidates} candidates, p{q}"
            lines.append([name, f"{ours} µs", f"without embeddings {theirs} µs", each[f"ratio_p{q}"]])
        cpu = each["us_cpu"]
        peer = f"without embeddings {cpu['without']} µs"
        lines.append([f"server CPU, {candidates} candidates", f"{cpu['with']} µs", peer, each["ratio_cpu"]])
    rate = f"{result['saturation_per_second']:,}/s"
    bare = f"bare FastAPI {result['bare_per_second']:,}/s"
    closed = f"{result['closed_loop_per_second']:,}/s"
    lines.append(["closed loop, 50 candidates, one worker", closed, bare, result["saturation_over_bare"]])
    lines.append(["saturation by separate arrivals", rate, "", ""])
    lines.append(["p50 at 70 % of it, open loop", f"{result['p50_ms_50_candidates']} ms", "", ""])
    for share, milliseconds in result["p99_ms_by_share"].items():
        goal = "at most 10 ms" if share == str(SHARE) else ""
        lines.append([f"p99 at {float(share):.0%} of it, open loop", f"{milliseconds} ms", goal, ""])
    return lines


if __name__ == "__main__":
    command("The scorer over HTTP", ["what", "figure", "peer or goal", "ratio"], measure, rows)
