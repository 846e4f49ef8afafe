"""Readers while releases move under them, how long a flip and a rollback take, and memory at millions of tasks.

    python -m benchmarks.online.flips [--quick] [--json]

Four reader processes follow the pointer as a scorer does and read one task at a time, while a fifth process moves it
between three releases: two models' full generations, and an overlay on the second. Every number that is read says which
release it belongs to, so a mixture can't hide. Memory is that of a fresh process, mapped pages included. Linux only.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reporting import emit, show
from limaml.errors import StoreError
from limaml.online.overlay import open_generation
from limaml.online.records import TOMBSTONE, value_dtype
from limaml.online.release import rollback
from limaml.online.store import Generation, Release, Store, open_store
from limaml.schema import EMBEDDING, NEWEST_EVENT_TIME, SAMPLES

APPLICATION = "flips"
READERS = 4
READS_PER_LOOK = 20  # reads between two looks at the pointer
CHANGED_EVERY = 10  # in the overlay
MEMORY_WIDTH = 64
MEMORY_READS = 1_000_000
CHUNK_ROWS = 50_000
_NOW = datetime(2026, 1, 31, tzinfo=UTC)


def generation(name: str, model: str, tasks: int, width: int, base: str = "") -> Generation:
    """A plan."""
    return Generation(
        name=name, application=APPLICATION, model_version=model, embeddings_digest=name, as_of=date(2026, 1, 31),
        newest_event_time=_NOW, tasks=tasks, width=width, dtype="float16", buffer_rows=CHUNK_ROWS, base=base,
    )  # fmt: skip


def release(sealed: Generation, number: int, previous: int | None) -> Release:
    """The release of a generation."""
    return Release(
        number=number, application=APPLICATION, model_version=sealed.model_version,
        model_uri=f"file:///models/{sealed.model_version}", model_digest=f"digest of {sealed.model_version}",
        generation=sealed.name, as_of=sealed.as_of, cutoff=_NOW, newest_event_time=_NOW, tasks=sealed.tasks,
        width=sealed.width, dtype=sealed.dtype, embeddings_digest=sealed.embeddings_digest, previous=previous,
    )  # fmt: skip


def fill(store: Store, plan: Generation, tag: int, every: int = 1, gone: frozenset[int] = frozenset()) -> Generation:
    """Write and seal each `every`-th task: an embedding of `tag`s and the task's number as its samples."""
    with store.begin(plan) as writer:
        for index, start in enumerate(range(0, plan.tasks, CHUNK_ROWS)):
            number = np.arange(start, min(start + CHUNK_ROWS, plan.tasks))
            number = number[number % every == 0]
            records = np.zeros(len(number), value_dtype(plan.width, plan.dtype))
            records[EMBEDDING] = tag
            records[NEWEST_EVENT_TIME], records[SAMPLES] = tag, number
            data, size = records.tobytes(), records.dtype.itemsize
            values = [data[at : at + size] for at in range(0, len(data), size)]
            values = [TOMBSTONE if task in gone else value for task, value in zip(number.tolist(), values, strict=True)]
            writer.write(index, [f"{task:09d}".encode() for task in number.tolist()], values)
        return writer.seal()


def three_releases(store: Store, tasks: int) -> list[Generation]:
    """Two models' generations and an overlay on the second one."""
    first = fill(store, generation("20260101-000000000001", "m1", tasks, 8), 1)
    second = fill(store, generation("20260102-000000000002", "m2", tasks, 8), 2)
    over = generation("20260103-000000000003", "m2", tasks, 8, base=second.name)
    return [first, second, fill(store, over, 3, CHANGED_EVERY)]


def read(url: str, tasks: int, reads: int, number: int, ready: Any, stop: Any, progress: Any, results: Any) -> None:
    """Follow the pointer and read; counts what must not be, until enough was read and nobody flips any more."""
    store = open_store(url, APPLICATION)
    rng = np.random.default_rng(number)
    counts = {"reads": 0, "mixed_pairs": 0, "missing": 0, "errors": 0, "moves": 0}
    pinned = reader = None
    ready.wait()
    while counts["reads"] < reads or not stop.is_set():
        try:
            serving = store.current()
            assert serving is not None
            if reader is None or serving != pinned:
                if reader is not None:
                    reader.close()
                pinned, reader = serving, open_generation(store, serving.generation)
                counts["moves"] += 1
                # The pair: the generation says who made it, the release says who reads it.
                counts["mixed_pairs"] += reader.generation.model_version != pinned.model_version
            tag = int(serving.generation[-1])
            for task in rng.integers(tasks, size=READS_PER_LOOK).tolist():
                found = reader.get([f"{task:09d}"])
                expected = 2 if tag == 3 and task % CHANGED_EVERY else tag
                counts["missing"] += not found.found[0]
                counts["mixed_pairs"] += bool((found.embedding != expected).any() or found.samples[0] != task)
        except StoreError:
            counts["errors"] += 1
        counts["reads"] += READS_PER_LOOK
        progress[number] = counts["reads"]
    results.put(counts)


def flips(url: str, tasks: int, reads: int, moves: int) -> dict[str, Any]:
    """Move the pointer `moves` times, half of them by rollbacks, evenly over the reads of four processes."""
    store = open_store(url, APPLICATION)
    sealed = three_releases(store, tasks)
    store.flip(release(sealed[0], 1, None))
    processes = get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    ready, stop, results = processes.Barrier(READERS + 1), processes.Event(), processes.Queue()
    progress: Any = processes.Array("q", READERS)
    arguments = [(url, tasks, reads // READERS, number, ready, stop, progress, results) for number in range(READERS)]
    readers = [processes.Process(target=read, args=each) for each in arguments]
    for each in readers:
        each.start()
    ready.wait()
    seconds: dict[str, list[float]] = {"flip": [], "rollback": []}
    for move in range(moves):
        while sum(progress) < move * reads / moves:
            time.sleep(0.002)
        serving = store.current()
        assert serving is not None
        to = release(sealed[1 + move // 2 % 2], serving.number + 1, serving.number)
        started = time.perf_counter()
        if move % 2:
            rollback(store)
        else:
            store.flip(to)
        seconds["rollback" if move % 2 else "flip"].append(time.perf_counter() - started)
    stop.set()
    found = [results.get(timeout=600) for _ in readers]
    for each in readers:
        each.join()
    return {
        **{name: sum(each[name] for each in found) for name in found[0]},
        "flips": len(seconds["flip"]),
        "rollbacks": len(seconds["rollback"]),
        "flip_p50_ms": round(1000 * float(np.median(seconds["flip"])), 2),
        "flip_p99_ms": round(1000 * float(np.quantile(seconds["flip"], 0.99)), 2),
        "rollback_ms": round(1000 * max(seconds["rollback"]), 2),
    }


def push_memory(url: str, tasks: int, reads: int) -> dict[str, Any]:
    """Write, seal and read back a generation in this process."""
    del reads
    store = open_store(url, APPLICATION)
    started = time.perf_counter()
    sealed = fill(store, generation("20260101-000000000001", "m1", tasks, MEMORY_WIDTH), 1)
    written = time.perf_counter() - started
    store.audit(sealed.name)
    store.flip(release(sealed, 1, None))
    return {"push_per_second": round(tasks / written), "bytes": sealed.bytes, "push_rss_mib": _peak_mebibytes()}


def read_memory(url: str, tasks: int, reads: int) -> dict[str, Any]:
    """Read random tasks of the current release in this process."""
    store = open_store(url, APPLICATION)
    serving = store.current()
    assert serving is not None
    reader = open_generation(store, serving.generation)
    number = np.random.default_rng(0).integers(tasks, size=reads)
    seconds = np.empty(reads)
    for at, task in enumerate(number.tolist()):
        key = f"{task:09d}"
        started = time.perf_counter()
        found = reader.get([key])
        seconds[at] = time.perf_counter() - started
        assert found.samples[0] == task
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {
        "reads": reads,
        "rss_mib": _peak_mebibytes(),
        "get_p50_us": round(1e6 * float(p50), 1),
        "get_p99_us": round(1e6 * float(p99), 1),
    }


def memory(tasks: int, reads: int = MEMORY_READS) -> dict[str, Any]:
    """Peak resident memory of a process that pushes and of one that reads so many tasks."""
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as folder:
        found: dict[str, Any] = {"tasks": tasks}
        for child in ("push_memory", "read_memory"):
            options = ["--child", child, "--url", f"lmdb://{folder}", "--tasks", str(tasks), "--reads", str(reads)]
            command = [sys.executable, "-m", "benchmarks.online.flips", *options]
            found |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        return found


@contextmanager
def redis_url(folder: Path) -> Iterator[str | None]:
    """A real server on a free port, or None where the machine has none."""
    if shutil.which("redis-server") is None and shutil.which("valkey-server") is None:
        yield None
        return
    from tests.limaml.online.servers import RedisServer

    with RedisServer(folder) as server:
        yield server.url


def measure(quick: bool) -> dict[str, Any]:
    """All figures; `quick` reads less and holds a million tasks instead of twenty."""
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as folder:
        lmdb = flips(f"lmdb://{folder}/store", 20_000, 100_000 if quick else 1_000_000, 200)
        with redis_url(Path(folder)) as url:
            redis = flips(url, 2_000, 10_000 if quick else 100_000, 200) if url else None
    sizes = [memory(1_000_000)] if quick else [memory(1_000_000), memory(20_000_000)]
    both = [lmdb, *([redis] if redis else [])]
    return {
        "flip_p99_ms": lmdb["flip_p99_ms"],
        "rollback_ms": lmdb["rollback_ms"],
        **{name: sum(each[name] for each in both) for name in ("mixed_pairs", "missing", "errors")},
        "rss_mib_20m": None if quick else sizes[-1]["rss_mib"],
        "flips": {"lmdb": lmdb, "redis": redis},
        "memory": sizes,
    }


def _peak_mebibytes() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return round(int(line.split()[1]) / 1024, 1)


def main() -> None:
    """Measure and print; or, as a child, measure this process."""
    parser = argparse.ArgumentParser(description="Releases that move under readers, and memory.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=["push_memory", "read_memory"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--tasks", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--reads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child = {"push_memory": push_memory, "read_memory": read_memory}[options.child]
        emit(child(options.url, options.tasks, options.reads))
        return
    result = measure(options.quick)
    if options.json:
        emit(result)
        return
    columns = ["reads", "moves", "mixed_pairs", "missing", "errors", "flip_p50_ms", "flip_p99_ms", "rollback_ms"]
    lines = [[name, *(found[each] for each in columns)] for name, found in result["flips"].items() if found]
    show("Four readers while releases move", ["store", *columns], lines)
    columns = ["push_per_second", "push_rss_mib", "rss_mib", "get_p50_us", "get_p99_us"]
    show(
        "LMDB, 64 × float16",
        ["tasks", *columns],
        [[f"{m['tasks']:,}", *(m[c] for c in columns)] for m in result["memory"]],
    )


if __name__ == "__main__":
    main()
