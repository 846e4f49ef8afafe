"""How fast embeddings are pushed and read: LMDB and a real Redis server, each beside its raw client.

    python -m benchmarks.online.stores [--quick] [--json]

A push is the real one, parquet shards → rows in key order → encoded → written and sealed, in a process of its own; what
verifies it afterwards is not counted, nor what libraries import at their first use. 64 × float16, eight shards, one
million tasks (`--quick`: 100,000). `rss_mib` is the pushing process's largest resident set, mapped files included;
`per_cpu_second` counts the processor time of the pushing process alone. The best of three pushes is shown, all are in
the JSON.

A read is one random task from a generation of that size: `over_raw` is its median over that of the raw client's get of
the same stored bytes, both timed in turn. What Redis keeps in a page is also held against the record as a key of its
own. Linux only.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.online.flips import redis_url
from benchmarks.reporting import emit, show
from limaml.config import load_application
from limaml.manifest import Manifest, read_manifest
from limaml.online.embeddings import _ENCODING as ENCODING
from limaml.online.lmdb_generation import LmdbReader
from limaml.online.merge import merged
from limaml.online.paged_generation import PagedReader
from limaml.online.push import cutoff_of, plan_generation, push, shard_uris
from limaml.online.store import Store, open_store
from limaml.schema import embedding_schema
from limaml.stage import Stage, entries

WIDTH = 64
SHARDS = 8
APPLICATION = load_application("ptap")
_DAY = date(2026, 1, 31)
_INSTANT = datetime(2026, 1, 31, tzinfo=UTC)


def write_embeddings(folder: Path, tasks: int) -> str:
    """URI of random embeddings as the stage that generates them writes them."""
    generator = np.random.default_rng(0)
    schema = embedding_schema(WIDTH)

    def build(directory: Path) -> Manifest:
        for shard in range(SHARDS):
            ids = pa.array([str(task) for task in range(shard, tasks, SHARDS)])
            numbers = generator.normal(size=len(ids) * WIDTH).astype(np.float32)
            columns = [
                ids,
                pa.FixedSizeListArray.from_arrays(pa.array(numbers), WIDTH),
                pa.repeat("m1", len(ids)),
                pa.repeat(pa.scalar(_INSTANT, schema.field(3).type), len(ids)),
                pa.repeat(pa.scalar(_INSTANT, schema.field(4).type), len(ids)),
                pa.array(np.full(len(ids), 9, np.int32)),
                pa.array(np.zeros(len(ids), np.uint64)),
            ]
            table = pa.Table.from_arrays(columns, schema=schema).sort_by("task_id")
            path = directory / f"shard={shard:03d}.parquet"
            pq.write_table(table, path, row_group_size=1 << 16, compression="zstd", **ENCODING)
        details = {
            "model_version": "m1",
            "model_digest": "d",
            "as_of": _DAY.isoformat(),
            "width": WIDTH,
            "newest_event_time": _INSTANT.isoformat(),
        }
        return stage.manifest(entries(directory), {"tasks": tasks}, details)

    stage = Stage("embeddings", str(folder / f"embeddings-{tasks}"), APPLICATION, (), {"tasks": tasks})
    stage.run(build)
    return stage.output


def push_here(url: str, embeddings: str) -> dict[str, Any]:
    """Push in this process."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    manifest, store = read_manifest(embeddings, "embeddings"), open_store(url, APPLICATION.name)
    plan = plan_generation(manifest, APPLICATION, store, None)
    next(merged(shard_uris(embeddings, manifest), 10))
    started, cpu = time.perf_counter(), time.process_time()
    sealed = push(store, plan, embeddings, manifest, cutoff_of(plan, APPLICATION))
    return {
        "per_second": round(sealed.rows / (time.perf_counter() - started)),
        "per_cpu_second": round(sealed.rows / (time.process_time() - cpu)),
        "stored_bytes": round(sealed.bytes / sealed.rows, 1),
        "rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def push_apart(url: str, embeddings: str) -> dict[str, Any]:
    """Push in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.online.stores", "--child", url, embeddings]
    return json.loads(subprocess.run(command, check=True, capture_output=True, env=os.environ).stdout)


def medians(calls: dict[str, Callable[[str], Any]], asked: list[str]) -> dict[str, float]:
    """Median microseconds of each call, all of them timed in turn on every task asked for."""
    seconds: dict[str, list[int]] = {name: [] for name in calls}
    # Each its own order: what one has just read lies in the processor's cache, and would be a gift to the next.
    orders = [asked[number:] + asked[:number] for number in range(0, len(asked), -(-len(asked) // len(calls)))]
    for tasks in zip(*orders, strict=True):
        for (name, call), task in zip(calls.items(), tasks, strict=True):
            started = time.perf_counter_ns()
            call(task)
            seconds[name].append(time.perf_counter_ns() - started)
    return {name: statistics.median(each) / 1e3 for name, each in seconds.items()}


def reads(store: Store, tasks: int, count: int) -> dict[str, float]:
    """Median microseconds of reading one task, by us and by the raw client."""
    (name,) = store.generations()
    reader = store.open(name)
    asked = [str(task) for task in np.random.default_rng(1).integers(0, tasks, count)]
    calls: dict[str, Callable[[str], Any]] = {"get": lambda task: reader.get([task])}
    if isinstance(reader, LmdbReader):
        environment, database = reader._environment, reader._embeddings

        def raw(task: str) -> bytes | None:
            with environment.begin(db=database) as transaction:
                return cast(bytes | None, transaction.get(task.encode()))

        calls["raw"] = raw
    else:
        paged = cast(PagedReader, reader)
        backend = cast(Any, paged._backend)
        client, names = (
            backend._client,
            {task: backend._pages + cast(str, paged._place(task.encode())) for task in asked},
        )
        client.mset({f"alone:{task}": b"x" * (2 * WIDTH + 12) for task in asked})
        calls["raw"] = lambda task: client.get(names[task])
        calls["raw_alone"] = lambda task: client.get(f"alone:{task}")
    found = medians(calls, asked)
    fifty = medians({"fifty": lambda task: reader.get(asked[int(task) % (count - 50) :][:50])}, asked[: count // 10])
    return {**found, **fifty, "over_raw": round(found["get"] / found["raw"], 2)}


def measure(quick: bool) -> dict[str, Any]:
    """Figures of both stores; Redis is left out where there is no server."""
    tasks, count, repeats = (100_000, 2000, 1) if quick else (1_000_000, 10_000, 3)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as place, redis_url(Path(place)) as redis:
        embeddings = write_embeddings(Path(place), tasks)
        urls = {"lmdb": [f"lmdb://{place}/store{number}" for number in range(repeats)]}
        if redis:
            urls["redis"] = [f"{redis.removesuffix('0')}{number}" for number in range(repeats)]
        for kind, places in urls.items():
            pushes = [push_apart(url, embeddings) for url in places]
            best = max(pushes, key=lambda each: each["per_second"])
            spread = [each["per_second"] for each in pushes]
            store = open_store(places[0], APPLICATION.name)
            found[kind] = {"push": best | {"all": spread}, "read_us": reads(store, tasks, count)}
    return {
        **{f"push_per_second_{kind}": each["push"]["per_second"] for kind, each in found.items()},
        **{f"read_over_raw_{kind}": each["read_us"]["over_raw"] for kind, each in found.items()},
        "push_rss_mib": max(each["push"]["rss_mib"] for each in found.values()),
        "stores": {"tasks": tasks, **found},
    }


def main() -> None:
    """Measure and print; or, as a child, push."""
    parser = argparse.ArgumentParser(description="Pushing to and reading from LMDB and Redis.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("URL", "EMBEDDINGS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        emit(push_here(*options.child))
        return
    result = measure(options.quick)
    if options.json:
        emit(result)
        return
    stores = {name: each for name, each in result["stores"].items() if name != "tasks"}
    columns = ["per_second", "per_cpu_second", "stored_bytes", "rss_mib"]
    lines = [[name, *(f"{each['push'][column]:,}" for column in columns)] for name, each in stores.items()]
    show(f"Pushing {result['stores']['tasks']:,} embeddings", ["store", *columns], lines)
    columns = ["get", "raw", "raw_alone", "fifty", "over_raw"]
    lines = [[name, *(each["read_us"].get(column, "") for column in columns)] for name, each in stores.items()]
    show("Reading one task, median µs", ["store", *columns], lines)


if __name__ == "__main__":
    main()
