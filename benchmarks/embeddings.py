"""Embedding generation end to end, parquet in and parquet out, and its compute against a loop over tasks.

    python -m benchmarks.embeddings [--tasks N] [--repeats N] [--json]

32 support rows a task, meta block 32-64-16, global block 144-256-128-1, one thread. `tasks_per_second_per_core` counts
the CPU time of the whole stage: sums checked, rows read, k steps, vectors written. The first level of the JSON is k = 1
on the whole meta block; `all` has every k and both forms of adaptation, and in each

- `read_ratio`: the stage's time over that of its floor, checking the sums and reading the same rows into batches;
- `compute_tasks_per_second_per_core`: the mathematics alone, one batch in memory;
- `loop_over_ours`: a per-task loop's time over that of the mathematics;
- `products_ratio`: the time of the mathematics over that of its floor, the matrix products alone.

`reading` is that floor by itself. `ragged` is k = 1 on tasks of log-normal length, 4 to 64 rows; its
`row_time_ratio` is the time of one of its rows over that of a row of the even tasks.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import inputs
from benchmarks.loops import loop_embed, split
from benchmarks.reporting import emit, interleaved, ratio, show, single_thread
from benchmarks.training import papers_form
from limaml.config import Application
from limaml.data.shards import open_shard, row_groups, support_parts
from limaml.data.tasks import TaskSet
from limaml.learning.adaptation import embed
from limaml.learning.buffers import keep_freed_memory
from limaml.learning.precision import best_precision, fast_products
from limaml.learning.rows import rows_of
from limaml.manifest import file_uri
from limaml.online.embeddings import ROWS_PER_BATCH, generate_embeddings

ROWS = 32
STEPS = (1, 3)
SHAPES = ("even", "ragged")


def form(adapted: str) -> Application:
    """The paper's whole meta block at one α by the mean loss, or the default's shift of the embedding."""
    return papers_form() if adapted == "meta_block" else inputs.application(adapted)


def stage(app: Application, folder: Path, sets: dict[str, str], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of reading alone and of the whole stage for every k, of each task set."""
    model = inputs.write_model(folder, app)
    numbers = itertools.count()

    def generate(tasks: str, steps: int) -> None:
        options = app.embeddings.model_copy(update={"finetune_steps": steps})
        changed = app.model_copy(update={"embeddings": options})
        output = str(folder / f"embeddings-{app.network.adapted}-{next(numbers)}")
        as_of = inputs.START.fromordinal(inputs.START.toordinal() + inputs.DAYS)
        manifest = generate_embeddings(model, tasks, output, changed, as_of)
        assert manifest.counts["tasks"] == TaskSet.open(tasks, verify=False).tasks

    def read(tasks: str) -> None:
        task_set = TaskSet.open(tasks)
        widths, size = task_set.manifest.details["widths"], app.embeddings.tasks_per_batch
        for entry in task_set.manifest.files:
            with open_shard(file_uri(tasks, entry)) as file:
                for group in row_groups(file, widths):
                    for part in support_parts(group, np.flatnonzero(group.support), size, ROWS_PER_BATCH):
                        group.support_only(part)

    candidates: dict[str, Callable[[], None]] = {}
    for shape, tasks in sets.items():
        candidates[f"{shape}_read"] = lambda tasks=tasks: read(tasks)
        candidates |= {f"{shape}_k{k}": lambda tasks=tasks, k=k: generate(tasks, k) for k in STEPS}
    return interleaved(candidates, repeats)


def compute(app: Application, tasks: int, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of the mathematics alone, of the same one task after the other, and of its matrix products."""
    support = rows_of(inputs.batch(tasks, ROWS, 0))
    network, parts = inputs.network(app).eval().requires_grad_(False), split(support)
    candidates: dict[str, Callable[[], Any]] = {}
    for k in STEPS:
        candidates[f"k{k}"] = lambda k=k: embed(network, support, k)
        candidates[f"loop_k{k}"] = lambda k=k: loop_embed(network, parts, k)
        candidates[f"products_k{k}"] = lambda k=k: products(app, tasks * ROWS, k)
    with fast_products():
        return interleaved(candidates, repeats)


@torch.no_grad()
def products(app: Application, rows: int, steps: int) -> None:
    """The products every way to k steps needs: both blocks forward, the global block's backward to the embedding."""
    width, hidden, (first, second) = app.network.embedding_width, app.network.meta_hidden[0], app.network.global_hidden
    shapes = [(inputs.OTHER, first)]
    meta = [(inputs.META, hidden), (hidden, width)]
    if app.network.adapted == "embedding":
        shapes += meta
    for _ in range(steps):
        shapes += [(width, first), (first, second), (second, first), (first, width)]
        if app.network.adapted == "meta_block":
            shapes += [*meta, (width, hidden)]
    # By as many rows as stay in the cache.
    for start in range(0, rows, 1024):
        size = min(1024, rows - start)
        for before, after in shapes:
            torch.mm(_matrix(size, before, 0), _matrix(before, after, 1), out=_matrix(size, after, 2))


@cache
def _matrix(rows: int, columns: int, role: int) -> torch.Tensor:
    """A random matrix; the same one for the same role in a product."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(role))


def run(tasks: int = 12_000, repeats: int = 3, batch: int | None = None) -> dict[str, Any]:
    """Every figure; see the top of the file."""
    single_thread()
    keep_freed_memory()
    figures: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as name:
        folder, app = Path(name), inputs.application()
        lengths = {"even": ROWS, "ragged": inputs.ragged_lengths(tasks)}
        sets = {s: inputs.write_task_set(folder / s, app, tasks, lengths[s], all_support=True) for s in SHAPES}
        rows = {shape: TaskSet.open(uri).rows for shape, uri in sets.items()}
        for adapted in inputs.ADAPTED:
            app = form(adapted)
            whole = stage(app, folder, sets, repeats)
            size = batch or app.embeddings.tasks_per_batch
            alone = compute(app, size, repeats + 2)
            for k in STEPS:
                figures[f"{adapted}_k{k}"] = {
                    "tasks_per_second_per_core": _speed(tasks, whole[f"even_k{k}"]),
                    "read_ratio": round(ratio(whole, f"even_k{k}", "even_read"), 2),
                    "compute_tasks_per_second_per_core": _speed(size, alone[f"k{k}"]),
                    "loop_over_ours": round(ratio(alone, f"loop_k{k}", f"k{k}"), 2),
                    "products_ratio": round(ratio(alone, f"k{k}", f"products_k{k}"), 2),
                }
            if adapted == "meta_block":
                extra = {
                    "reading": {
                        "tasks_per_second_per_core": _speed(tasks, whole["even_read"]),
                        "rows_per_second_per_core": _speed(rows["even"], whole["even_read"]),
                    },
                    "ragged": {
                        "mean_rows_per_task": round(rows["ragged"] / tasks, 1),
                        "tasks_per_second_per_core": _speed(tasks, whole["ragged_k1"]),
                        "rows_per_second_per_core": _speed(rows["ragged"], whole["ragged_k1"]),
                        "row_time_ratio": round(
                            ratio(whole, "ragged_k1", "even_k1") * rows["even"] / rows["ragged"], 2
                        ),
                    },
                }
    return {
        "rows_per_task": ROWS,
        "tasks": tasks,
        "adapted": "meta_block",
        "precision": best_precision(),
        **figures["meta_block_k1"],
        **extra,
        "all": figures,
    }


def _speed(count: int, seconds: list[float]) -> float:
    return round(count / statistics.median(seconds), 1)


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """The figures as lines of a table: what, figure, peer or floor, ratio."""
    lines = []
    for name, figures in result["all"].items():
        whole, alone = (f"{figures[key]:,.0f} tasks/s" for key in _SPEEDS)
        lines += [
            [f"embeddings, parquet to parquet, {name}", whole, "reading alone", figures["read_ratio"]],
            [f"embeddings, compute, {name}", alone, "loop over tasks", round(1 / figures["loop_over_ours"], 3)],
            [f"embeddings, compute, {name}", alone, "its matrix products alone", figures["products_ratio"]],
        ]
    ragged = result["ragged"]
    speed = f"{ragged['rows_per_second_per_core']:,.0f} rows/s"
    return [
        *lines,
        ["embeddings, parquet to parquet, ragged tasks", speed, "a row of even tasks", ragged["row_time_ratio"]],
    ]


_SPEEDS = ("tasks_per_second_per_core", "compute_tasks_per_second_per_core")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Embedding generation against reading and a loop over tasks.")
    parser.add_argument("--tasks", type=int, default=12_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = run(options.tasks, options.repeats)
    if options.json:
        emit(result)
        return
    show("Embedding generation, one thread", ["what", "figure", "peer or floor", "time ratio"], rows(result))


if __name__ == "__main__":
    main()
