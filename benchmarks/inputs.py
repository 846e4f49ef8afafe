"""Random inputs of a known shape: 32 meta and 128 other features, meta block 32-64-16, global block 144-256-128-1."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from limaml.config import Application, parse_application
from limaml.data.batches import TaskBatch
from limaml.learning.encoders import FeatureStatistics
from limaml.learning.network import Network

META, OTHER = 32, 128
WIDE_META = 256
DAYS = 8
START = date(2026, 1, 1)
ADAPTED = ("meta_block", "embedding")


def application(adapted: str = "meta_block", wide: bool = False, **training: Any) -> Application:
    """An application of that shape, or with a meta block 256-512-64; what it doesn't name is the product's default."""
    meta = WIDE_META if wide else META
    content = {
        "name": "benchmark",
        "title": "Benchmark",
        "task": {"keys": ["member_id"]},
        "data": {"row_id_column": "row_id"},
        "features": {"meta": [f"member_x{i}" for i in range(meta)], "other": [f"item_x{i}" for i in range(OTHER)]},
        "network": {
            "embedding_width": 64 if wide else 16,
            "meta_hidden": [512 if wide else 64],
            "global_hidden": [256, 128],
            "adapted": adapted,
            "meta_block": "mlp",
            "item_product": False,
            "adapted_bias": False,
        },
        "training": {"device": "cpu", "threads": 1, "task_learning_rate": 0.1, **training},
    }
    return parse_application(content, "benchmark")


def statistics(app: Application) -> tuple[FeatureStatistics, FeatureStatistics]:
    """Statistics of standardized features without nulls, of both blocks."""
    sizes = len(app.features.meta), len(app.features.other)
    meta, other = (FeatureStatistics([False] * n, [0.0] * n, [1.0] * n, [False] * n, vocabulary=[]) for n in sizes)
    return meta, other


def network(app: Application) -> Network:
    """A network with random weights."""
    from limaml.model import network_spec

    torch.manual_seed(0)
    return Network(network_spec(app), *statistics(app))


def batch(tasks: int, support: int, query: int, meta: int = META) -> TaskBatch:
    """A random batch of tasks with so many support and query rows each."""
    return ragged_batch(np.full(tasks, support + query), np.full(tasks, support), meta)


def ragged_batch(lengths: npt.NDArray[np.int64], support: npt.NDArray[np.int64], meta: int = META) -> TaskBatch:
    """A random batch of tasks with [T] rows and [T] support rows."""
    generator = np.random.default_rng(0)
    rows = int(lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TaskBatch(
        task_ids=[str(task) for task in range(len(lengths))],
        offsets=offsets,
        support=support.astype(np.int64),
        label=(generator.random(rows) < 0.3).astype(np.float32),
        event_time=np.arange(rows, dtype=np.int64) - np.repeat(offsets[:-1], lengths),
        row_id=np.arange(rows, dtype=np.int64),
        meta_numeric=generator.standard_normal((rows, meta), np.float32),
        meta_category=np.zeros((rows, 0), np.int64),
        other_numeric=generator.standard_normal((rows, OTHER), np.float32),
        other_category=np.zeros((rows, 0), np.int64),
    )


def ragged_lengths(tasks: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """[T] rows of each task: log-normal around 16, from 4 to 64."""
    return np.random.default_rng(seed).lognormal(np.log(16), 0.7, tasks).clip(4, 64).astype(np.int64)


def write_task_set(
    folder: Path, app: Application, tasks: int, rows: int | npt.NDArray[np.int64], all_support: bool = False
) -> str:
    """URI of a grouped task set of so many rows a task, one number or [T], spread over `DAYS` days from `START`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from limaml.data.tasks import group_tasks
    from limaml.schema import TIMESTAMP
    from limaml.stage import Stage, entries
    from limaml.windows import TaskSplit, Window

    generator = np.random.default_rng(0)
    member = np.repeat(np.arange(tasks), rows)
    total = len(member)
    stage = Stage("validated", str(folder / "validated"), app, (), {"tasks": tasks, "rows": total})

    def parts() -> Iterator[pa.Table]:
        midnight = np.datetime64(START, "us").astype(np.int64)
        for first in range(0, total, 1 << 16):
            size = min(1 << 16, total - first)
            row = np.arange(first, first + size)
            numbers = generator.standard_normal((META + OTHER, size), np.float32)
            names = [feature.name for feature in app.features.all]
            time = midnight + generator.integers(0, DAYS * 86_400_000_000, size)
            columns = {
                "member_id": member[row],
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
        save_model(directory, "random", app, {"limaml": net, "vanilla": net}, *statistics(app))
        return stage.manifest(entries(directory), {}, {"model_version": "random"})

    stage.run(build)
    return stage.output
