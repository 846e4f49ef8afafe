"""Task grouping against polars doing the same job: read days, group, sort, cap, split, write shards.

    python -m benchmarks.grouping [--rows N] [--repeats N] [--json]

Each engine runs in its own subprocess over the same simulated days, and reports wall seconds, CPU seconds and peak
resident memory.
Ours also checks every input file's SHA-256 and writes features as lists; polars writes plain columns.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np

START = date(2026, 1, 1)
DAYS = 14
META, OTHER = 8, 16
CAP, SUPPORT_FRACTION, SHARDS = 64, 0.75, 8
APPLICATION = {
    "name": "benchmark",
    "title": "Grouping benchmark",
    "task": {"keys": ["member_id"], "max_samples": CAP, "support_fraction": SUPPORT_FRACTION},
    "data": {"row_id_column": "row_id"},
    "features": {"meta": [f"member_x{i}" for i in range(META)], "other": [f"item_x{i}" for i in range(OTHER)]},
    "grouping": {"shards": SHARDS},
}


def write_input(folder: Path, rows: int) -> str:
    """Days of interactions as a validated manifest; member activity is heavy-tailed, about 20 rows a member."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from limaml.config import parse_application
    from limaml.schema import TIMESTAMP
    from limaml.stage import Stage, entries

    generator = np.random.default_rng(0)
    stage = Stage("validated", str(folder), parse_application(APPLICATION, "benchmark"), (), {"rows": rows})
    first = 0

    def build(directory: Path):
        nonlocal first
        counts = {}
        for day in range(DAYS):
            folder = directory / f"date={START + timedelta(days=day)}"
            folder.mkdir()
            wanted = rows * (day + 1) // DAYS - first
            for part, start in enumerate(range(0, wanted, 1 << 20)):
                size = min(1 << 20, wanted - start)
                table = _part(generator, pa, TIMESTAMP, size, first + start, day, max(1, rows // 20))
                pq.write_table(table, folder / f"part-{part:03d}.parquet", compression="snappy", use_dictionary=False)
                counts[f"{folder.name}/part-{part:03d}.parquet"] = size
            first += wanted
        return stage.manifest(entries(directory, counts), {"rows": rows}, {"passed": True})

    stage.run(build)
    return str(folder)


def _part(generator: np.random.Generator, pa, timestamp, size: int, first: int, day: int, members: int):
    midnight = np.datetime64(START + timedelta(days=day), "us").astype(np.int64)
    columns = {
        "member_id": (members * generator.random(size) ** 1.5).astype(np.int64),
        "event_time": pa.array(midnight + generator.integers(0, 86_400_000_000, size)).cast(timestamp),
        "row_id": np.arange(first, first + size),
        "label": (generator.random(size) < 0.1).astype(np.int8),
    }
    for name in (f"{side}_x{i}" for side, count in (("member", META), ("item", OTHER)) for i in range(count)):
        columns[name] = generator.standard_normal(size, np.float32)
    return pa.table(columns)


def run_limaml(source: str, output: str) -> dict[str, int]:
    """Our engine."""
    from limaml.config import parse_application
    from limaml.data.tasks import group_tasks
    from limaml.windows import TaskSplit, Window

    window = Window(start=START, end=START + timedelta(days=DAYS))
    application = parse_application(APPLICATION, "benchmark")
    return group_tasks(source, output, application, TaskSplit(name="train", window=window)).counts


def run_spark(source: str, output: str) -> dict[str, int]:
    """Our engine on Spark, in local mode with as many tasks at once as this machine has cores."""
    from limaml.config import parse_application
    from limaml.data.tasks import group_tasks
    from limaml.windows import TaskSplit, Window

    window = Window(start=START, end=START + timedelta(days=DAYS))
    application = parse_application(APPLICATION | {"grouping": {"shards": SHARDS, "engine": "spark"}}, "benchmark")
    return group_tasks(source, output, application, TaskSplit(name="train", window=window)).counts


def run_polars(source: str, output: str) -> dict[str, int]:
    """The same tasks by polars' streaming engine, one sort of everything."""
    import polars as pl

    Path(output).mkdir()
    length = pl.len().over("member_id")
    position = pl.int_range(pl.len()).over("member_id")
    support = (length * SUPPORT_FRACTION).floor().cast(pl.Int64).clip(upper_bound=length.cast(pl.Int64) - 1)
    frame = (
        pl.scan_parquet(f"{source}/date=*/*.parquet", hive_partitioning=False)
        .sort("member_id", "event_time", "row_id")
        .filter(position >= length.cast(pl.Int64) - CAP)
        .with_columns((position >= support).alias("is_query"), shard=pl.col("member_id").hash(0) % SHARDS)
        .collect(engine="streaming")
    )
    for shard in range(SHARDS):
        part = frame.filter(pl.col("shard") == shard).drop("shard")
        part.write_parquet(f"{output}/shard={shard:03d}.parquet", compression="zstd", compression_level=1)
    query = int(frame["is_query"].sum())
    return {
        "tasks": frame["member_id"].n_unique(),
        "rows": frame.height,
        "support_rows": frame.height - query,
        "query_rows": query,
    }


ENGINES = {"limaml": run_limaml, "polars": run_polars, "spark": run_spark}
# Spark's Java process takes longer to start than small inputs to be grouped: it runs where it is asked for.
DEFAULTS = ("limaml", "polars")


def measure(engine: str, source: str, output: str) -> dict:
    """Run one engine in its own process."""
    command = [sys.executable, "-m", "benchmarks.grouping", "--engine", engine, "--source", source, "--output", output]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(output)
    return json.loads(finished.stdout)


def main() -> None:
    """Write the input, run the engines one after the other, print what they took."""
    parser = argparse.ArgumentParser(description="Task grouping against polars.")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=1, help="engines take turns; the fastest run of each counts")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engine", choices=list(ENGINES), help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    parser.add_argument("--spark", action="store_true", help="our engine on Spark, too")
    options = parser.parse_args()
    engines = (*DEFAULTS, "spark") if options.spark else DEFAULTS
    if options.engine:
        started = time.perf_counter()
        counts = ENGINES[options.engine](options.source, options.output)
        seconds = time.perf_counter() - started
        usage = resource.getrusage(resource.RUSAGE_SELF)
        figures = {
            "seconds": round(seconds, 2),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_gib": round(usage.ru_maxrss / 2**20, 3),
        }
        sys.stdout.write(json.dumps(figures | {"counts": counts}))
        return
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as folder:
        source = write_input(Path(folder) / "validated", options.rows)
        rounds = [
            {engine: measure(engine, source, f"{folder}/{engine}-{turn}") for engine in engines}
            for turn in range(options.repeats)
        ]
        results = {
            engine: min((r[engine] for r in rounds), key=lambda figures: figures["seconds"]) for engine in engines
        }
    if any(results[engine]["counts"] != results["limaml"]["counts"] for engine in engines):
        sys.exit(f"the engines disagree: {results}")
    ratio = round(results["limaml"]["seconds"] / results["polars"]["seconds"], 2)
    if options.json:
        sys.stdout.write(json.dumps({"rows": options.rows, **results, "seconds_ratio": ratio}) + "\n")
        return
    for engine, result in results.items():
        seconds, cpu, peak = (result[name] for name in ("seconds", "cpu_seconds", "peak_gib"))
        sys.stdout.write(f"{engine:8} {seconds:8.2f} s  {cpu:8.2f} CPU s  {peak:6.3f} GiB\n")
    sys.stdout.write(f"{options.rows:,} rows; limaml takes {ratio} of polars' time\n")


if __name__ == "__main__":
    main()
