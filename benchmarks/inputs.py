"""Random inputs of a known shape: 32 meta and 128 other features, meta block 32-64-16, global block 144-256-128-1."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limaml.config import Application, parse_application
from limaml.data.batches import TaskBatch
from limaml.learning.encoders import FeatureStatistics
from limaml.learning.network import Network

META, OTHER = 32, 128
DAYS = 8
START = date(2026, 1, 1)
ADAPTED = ("meta_block", "embedding")


def application(adapted: str = "meta_block", **training: Any) -> Application:
    """An application of that shape; what it doesn't name is the product's default."""
    content = {
        "name": "benchmark",
        "title": "Benchmark",
        "task": {"keys": ["member_id"]},
        "data": {"row_id_column": "row_id"},
        "features": {"meta": [f"member_x{i}" for i in range(META)], "other": [f"item_x{i}" for i in range(OTHER)]},
        "network": {
            "embedding_width": 16,
            "meta_hidden": [64],
            "global_hidden": [256, 128],
            "adapted": adapted,
            "item_product": False,
            "adapted_bias": False,
        },
        "training": {"device": "cpu", "threads": 1, "task_learning_rate": 0.1, **training},
    }
    return parse_application(content, "benchmark")


def statistics() -> tuple[FeatureStatistics, FeatureStatistics]:
    """Statistics of standardized features without nulls, of both blocks."""
    meta, other = (
        FeatureStatistics([False] * n, [0.0] * n, [1.0] * n, [False] * n, vocabulary=[]) for n in (META, OTHER)
    )
    return meta, other


def network(app: Application) -> Network:
    """A network with random weights."""
    from limaml.model import network_spec

    torch.manual_seed(0)
    return Network(network_spec(app), *statistics())


def batch(tasks: int, support: int, query: int, seed: int = 0) -> TaskBatch:
    """A random batch of tasks with so many support and query rows each."""
    generator = np.random.default_rng(seed)
    length = support + query
    rows = tasks * length
    return TaskBatch(
        task_ids=[str(task) for task in range(tasks)],
        offsets=np.arange(tasks + 1, dtype=np.int64) * length,
        support=np.full(tasks, support, np.int64),
        label=(generator.random(rows) < 0.3).astype(np.float32),
        event_time=np.tile(np.arange(length, dtype=np.int64), tasks),
        row_id=np.arange(rows, dtype=np.int64),
        meta_numeric=generator.standard_normal((rows, META), np.float32),
        meta_category=np.zeros((rows, 0), np.int64),
        other_numeric=generator.standard_normal((rows, OTHER), np.float32),
        other_category=np.zeros((rows, 0), np.int64),
    )


def write_task_set(folder: Path, app: Application, tasks: int, rows: int, all_support: bool = False) -> str:
    """URI of a grouped task set of so many rows a task, spread over `DAYS` days from `START`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from limaml.data.tasks import group_tasks
    from limaml.schema import TIMESTAMP
    from limaml.stage import Stage, entries
    from limaml.windows import TaskSplit, Window

    generator = np.random.default_rng(0)
    total = tasks * rows
    stage = Stage("validated", str(folder / "validated"), app, (), {"tasks": tasks, "rows": rows})

    def parts() -> Iterator[pa.Table]:
        midnight = np.datetime64(START, "us").astype(np.int64)
        for first in range(0, total, 1 << 16):
            size = min(1 << 16, total - first)
            row = np.arange(first, first + size)
            numbers = generator.standard_normal((META + OTHER, size), np.float32)
            names = [feature.name for feature in app.features.all]
            time = midnight + generator.integers(0, DAYS * 86_400_000_000, size)
            columns = {
                "member_id": row // rows,
                "event_time": pa.array(time).cast(TIMESTAMP),
                "row_id": row,
                "label": (generator.random(size) < 0.3).astype(np.int8),
            }
            yield pa.table(columns | dict(zip(names, numbers, strict=True)))

    def build(directory: Path):
        path, writer = directory / "kept.parquet", None
        for part in parts():
            writer = writer or pq.ParquetWriter(path, part.schema, compression="snappy", use_dictionary=False)
            writer.write_table(part)
        assert writer is not None, "at least one row"
        writer.close()
        return stage.manifest(entries(directory, {path.name: total}), {"rows": total}, {"passed": True})

    stage.run(build)
    window = Window(start=START, end=START + timedelta(days=DAYS))
    boundary = window.end if all_support else None
    split = TaskSplit(name="train", window=window, boundary=boundary)
    group_tasks(stage.output, str(folder / "tasks"), app, split)
    return str(folder / "tasks")


def write_model(folder: Path, app: Application) -> str:
    """URI of a model with random weights."""
    from limaml.manifest import Manifest
    from limaml.model import save_model
    from limaml.stage import Stage, entries

    stage = Stage("model", str(folder / f"model-{app.network.adapted}"), app, ("network",), {})

    def build(directory: Path) -> Manifest:
        net = network(app).eval()
        save_model(directory, "random", app, {"limaml": net, "vanilla": net}, *statistics())
        return stage.manifest(entries(directory), {}, {"model_version": "random"})

    stage.run(build)
    return stage.output
