"""Scoring in process: where the time of a request goes.

    python -m benchmarks.online.scoring [--quick] [--json]

One thread, its CPU time, which leaves out what other processes took. `pclick_user`'s features (8 of the member, 15 of
the item) and default network, an LMDB store of 100,000 members.

- `steps_us`: per number of candidates, microseconds of the parts of a request, from its bytes to its answer's.
- `engines_us`: the network alone on each engine.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.online import world
from benchmarks.reporting import command, single_thread
from limaml.online.columns import Encoder
from limaml.online.runtime import PROBE_ROWS, TorchRuntime, seconds_of
from limaml.serve import logs, plain
from limaml.serve.service import Answer

CANDIDATES = (1, 50)
_REQUESTS = 500


def _bodies(candidates: int) -> list[bytes]:
    app = world.application()
    members = range(0, world.TASKS, world.TASKS // _REQUESTS)
    return [orjson.dumps(world.request(app, member, candidates)) for member in members]


def steps(folder: Path, rounds: int) -> tuple[dict[str, dict[str, float]], dict[str, list[float]]]:
    """Median microseconds of a request's parts, and of the network on each engine at `PROBE_ROWS`."""
    app = world.application()
    pinned = world.pinned(world.open_of(folder, app), app)
    reader, encoder = plain.PlainRequests(app), Encoder(app)
    found: dict[str, dict[str, float]] = {}
    for number in CANDIDATES:
        body = _bodies(number)[0]
        parsed = plain.parse(body)
        columns = reader.columns(parsed)
        candidates = encoder.candidates(columns)
        records = pinned.fetch(candidates)
        answer = Answer(pinned.score(candidates, records), pinned.release, "ok")
        embedding = np.zeros((number, pinned.model.embedding_width), np.float32)
        parts: dict[str, Callable[[], Any]] = {
            "parse the JSON": lambda body=body: plain.parse(body),
            "check, by column": lambda parsed=parsed: reader.columns(parsed),
            "encode": lambda columns=columns: encoder.candidates(columns),
            "read embeddings": lambda candidates=candidates: pinned.fetch(candidates),
            "score and reasons": lambda candidates=candidates, records=records: pinned.score(candidates, records),
            "of which the network": lambda candidates=candidates, embedding=embedding: pinned.runtime.score(
                embedding, *candidates.other
            ),
            "rank and answer": lambda answer=answer, columns=columns: plain.answer_of(app, answer, columns),
        }
        found[str(number)] = {name: _median_us(part, rounds) for name, part in parts.items()}
    runtimes = (TorchRuntime(pinned.model), pinned.runtime)
    cost = seconds_of(pinned.model, runtimes)
    return found, {runtime.name: [round(1e6 * each, 1) for each in cost[runtime]] for runtime in runtimes}


def _median_us(call: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.thread_time()
        call()
        seconds.append(time.thread_time() - started)
    return round(1e6 * float(np.median(seconds)), 1)


def measure(quick: bool) -> dict[str, Any]:
    """All of it."""
    single_thread()
    logs.configure()
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as temporary:
        folder = Path(temporary)
        world.build(folder, world.application())
        parts, engines = steps(folder, 300 if quick else 3000)
    return {"steps_us": parts, "engines_us": engines, "engine_rows": list(PROBE_ROWS)}


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """The figures as lines of a table: what, figure, peer, ratio."""
    lines: list[list[Any]] = []
    for candidates, parts in result["steps_us"].items():
        lines += [[f"{name}, {candidates} candidates", f"{us} µs", "", ""] for name, us in parts.items()]
    for name, each in result["engines_us"].items():
        for candidates, us in zip(result["engine_rows"], each, strict=True):
            lines.append([f"network on {name}, {candidates} candidates", f"{us} µs", "", ""])
    return lines


if __name__ == "__main__":
    command("Scoring in process, one thread", ["what", "figure", "peer", "ratio"], measure, rows)
