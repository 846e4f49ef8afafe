"""Embedding generation end to end, parquet in and parquet out, and its compute against a loop over tasks.

    python -m benchmarks.embeddings [--tasks N] [--repeats N] [--json]

32 support rows a task, meta block 32-64-16, global block 144-256-128-1, one thread. `tasks_per_second_per_core` counts
the CPU time of the whole stage: sums checked, rows read, k steps, vectors written. `read_ratio` is the stage's time
over that of its floor, reading the same task set into batches. The first level of the JSON is k = 1 on the whole meta
block; `all` has every k and both forms of adaptation.
"""

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import inputs
from benchmarks.loops import loop_embed, split
from benchmarks.reporting import emit, interleaved, ratio, show, single_thread
from limaml.config import Application
from limaml.data.tasks import TaskSet
from limaml.learning.adaptation import embed
from limaml.learning.rows import rows_of
from limaml.online.embeddings import generate_embeddings

ROWS = 32
STEPS = (1, 3)


def end_to_end(app: Application, folder: Path, tasks: int, repeats: int) -> dict[str, float]:
    """The whole stage on a task set of `tasks` tasks, for every k: tasks per CPU second, and time over reading."""
    model, task_set = inputs.write_model(folder, app), TaskSet.open(str(folder / "tasks"))
    numbers = itertools.count()

    def generate(steps: int) -> None:
        options = app.embeddings.model_copy(update={"finetune_steps": steps})
        changed = app.model_copy(update={"embeddings": options})
        output = str(folder / f"embeddings-{app.network.adapted}-{next(numbers)}")
        as_of = inputs.START.fromordinal(inputs.START.toordinal() + inputs.DAYS)
        manifest = generate_embeddings(model, task_set.uri, output, changed, as_of)
        assert manifest.counts["tasks"] == tasks

    def read() -> None:
        for batch in task_set.batches(app.embeddings.tasks_per_batch):
            batch.support_only()

    candidates = {"read": read} | {f"k{k}": lambda k=k: generate(k) for k in STEPS}
    seconds = interleaved(candidates, repeats)
    return {
        name: value
        for k in STEPS
        for name, value in {
            f"k{k}": round(tasks / statistics.median(seconds[f"k{k}"]), 1),
            f"k{k}_read_ratio": round(ratio(seconds, f"k{k}", "read"), 2),
        }.items()
    }


def compute(app: Application, tasks: int, repeats: int) -> dict[str, float]:
    """The mathematics alone, one batch in memory: tasks per CPU second, and the loop's time over ours."""
    support = rows_of(inputs.batch(tasks, ROWS, 0))
    network, parts = inputs.network(app).eval().requires_grad_(False), split(support)
    candidates = {f"k{k}": lambda k=k: embed(network, support, k) for k in STEPS}
    candidates |= {f"loop_k{k}": lambda k=k: loop_embed(network, parts, k) for k in STEPS}
    seconds = interleaved(candidates, repeats)
    speed = {f"k{k}": round(tasks / statistics.median(seconds[f"k{k}"]), 1) for k in STEPS}
    return speed | {f"k{k}_loop_over_ours": round(ratio(seconds, f"loop_k{k}", f"k{k}"), 2) for k in STEPS}


def run(tasks: int = 6000, repeats: int = 3, batch: int = 512) -> dict[str, Any]:
    """Every figure; see the top of the file."""
    single_thread()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as folder:
        inputs.write_task_set(Path(folder), inputs.application(), tasks, ROWS, all_support=True)
        for adapted in inputs.ADAPTED:
            app = inputs.application(adapted)
            whole, alone = end_to_end(app, Path(folder), tasks, repeats), compute(app, batch, repeats + 2)
            for k in STEPS:
                figures[f"{adapted}_k{k}"] = {
                    "tasks_per_second_per_core": whole[f"k{k}"],
                    "read_ratio": whole[f"k{k}_read_ratio"],
                    "compute_tasks_per_second_per_core": alone[f"k{k}"],
                    "loop_over_ours": alone[f"k{k}_loop_over_ours"],
                }
    return {"rows_per_task": ROWS, "tasks": tasks, "adapted": "meta_block", **figures["meta_block_k1"], "all": figures}


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """The figures as lines of a table: what, figure, peer or floor, ratio."""
    lines = []
    for name, figures in result["all"].items():
        whole, alone = (f"{figures[key]:,.0f} tasks/s" for key in _SPEEDS)
        lines.append([f"embeddings, parquet to parquet, {name}", whole, "reading alone", figures["read_ratio"]])
        lines.append(
            [f"embeddings, compute, {name}", alone, "loop over tasks", round(1 / figures["loop_over_ours"], 3)]
        )
    return lines


_SPEEDS = ("tasks_per_second_per_core", "compute_tasks_per_second_per_core")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Embedding generation against reading and a loop over tasks.")
    parser.add_argument("--tasks", type=int, default=6000)
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
