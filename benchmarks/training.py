"""One training step against a vanilla step on the same rows, and against a loop over tasks; `fit` end to end.

    python -m benchmarks.training [--repeats N] [--tasks N] [--json]

A step is loss, backward, clipping and AdamW on 128 tasks × (24 + 8) random rows, meta block 32-64-16, global block
144-256-128-1, one thread. Figures are medians over rounds of CPU time in random order: `ratio_to_vanilla` is ours over
vanilla, `loop_over_ours` the loop over ours; `as_configured` has the default inner steps and adds the un-adapted loss.
The paper's Table 9 gives 2.05 (n = 1) and 3.21 (n = 5). The first level of the JSON is for a network that adapts its
whole meta block, as the paper's does; `embedding` for one that adapts the block's output shift, the default here.
`fit` is an epoch from parquet: it adds reading, shuffling and checkpoints.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import inputs
from benchmarks.loops import loop_loss, split
from benchmarks.reporting import emit, interleaved, ratio, show, single_thread
from limaml.learning.network import Network
from limaml.learning.objective import limaml_loss, vanilla_loss
from limaml.learning.rows import Rows, rows_of, support_and_query

SUPPORT, QUERY = 24, 8
STEPS = (1, 3, 5)
GRADIENTS = ("direct", "full")
PAPER = {"n1": 2.05, "n5": 3.21}


def steps(adapted: str, tasks: int = 128) -> dict[str, Callable[[], None]]:
    """One training step of each kind on one batch, by name; each trains a network of its own."""
    app = inputs.application(adapted)
    batch = inputs.batch(tasks, SUPPORT, QUERY)
    rows, (support, query) = rows_of(batch), support_and_query(batch)
    pairs = list(zip(split(support), split(query), strict=True))
    losses: dict[str, Callable[[Network], Tensor]] = {"vanilla": lambda net: vanilla_loss(net, rows)}
    for gradient in GRADIENTS:
        for count in STEPS:
            losses[f"n{count}_{gradient}"] = partial(_ours, support, query, count, gradient)
        losses[f"loop_n1_{gradient}"] = partial(_loop, pairs, 1, gradient)
    options = app.training
    how = (options.inner_steps, options.global_gradient, options.unadapted_loss_weight)
    losses["as_configured"] = lambda net: limaml_loss(net, support, query, *how, rows)
    return {name: _step(inputs.network(app), loss) for name, loss in losses.items()}


def _ours(support: Rows, query: Rows, n: int, gradient: str, network: Network) -> Tensor:
    return limaml_loss(network, support, query, n, gradient)


def _loop(pairs: list[tuple[Rows, Rows]], n: int, gradient: str, network: Network) -> Tensor:
    return loop_loss(network, pairs, n, gradient)


def _step(network: Network, loss: Callable[[Network], Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW((p for p in network.parameters() if p.requires_grad), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(network).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step


def fit_speed(tasks: int) -> dict[str, float]:
    """Tasks per second of one epoch of `fit` from parquet, of each algorithm, as the run itself reports them."""
    from limaml.data.tasks import TaskSet
    from limaml.training.loop import fit

    app = inputs.application("embedding", epochs=1)
    with tempfile.TemporaryDirectory(prefix="limaml-benchmark-") as folder:
        tasks_uri = inputs.write_task_set(Path(folder), app, tasks, SUPPORT + QUERY)
        task_set = TaskSet.open(tasks_uri)
        speed = {}
        for algorithm in ("vanilla", "limaml"):
            checkpoint = Path(folder) / f"{algorithm}.safetensors"
            (epoch,) = fit(inputs.network(app), algorithm, task_set, task_set, app.training, app.embeddings, checkpoint)
            speed[algorithm] = round(epoch.tasks_per_second, 1)
    return speed


def run(repeats: int = 15, tasks: int = 128, fit_tasks: int = 3000) -> dict[str, Any]:
    """Every figure; see the top of the file."""
    single_thread()
    figures = {adapted: _figures(adapted, repeats, tasks) for adapted in inputs.ADAPTED}
    result = {"adapted": "meta_block", **figures["meta_block"], "embedding": figures["embedding"]}
    return result | {"fit_tasks_per_second": fit_speed(fit_tasks), "paper": PAPER}


def _figures(adapted: str, repeats: int, tasks: int) -> dict[str, Any]:
    candidates = steps(adapted, tasks)
    seconds = interleaved(candidates, repeats, warmup=2)
    ours = [name for name in candidates if not name.startswith(("loop_", "vanilla"))]
    return {
        "ratio_to_vanilla": {name: round(ratio(seconds, name, "vanilla"), 2) for name in ours},
        "loop_over_ours": {
            f"n1_{gradient}": round(ratio(seconds, f"loop_n1_{gradient}", f"n1_{gradient}"), 2)
            for gradient in GRADIENTS
        },
        "vanilla_step_ms": round(1e3 * statistics.median(seconds["vanilla"]), 2),
    }


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """The figures as lines of a table: what, figure, peer or floor, ratio."""
    lines = []
    for adapted, figures in (("meta_block", result), ("embedding", result["embedding"])):
        base = figures["vanilla_step_ms"]
        for name, value in figures["ratio_to_vanilla"].items():
            peer = f"vanilla {base:.1f} ms" + (f"; paper {PAPER[name[:2]]}" if name[:2] in PAPER else "")
            lines.append([f"training step, {adapted}, {name}", f"{value * base:.1f} ms", peer, value])
        for name, value in figures["loop_over_ours"].items():
            lines.append([f"training step, {adapted}, {name}", "", "loop over tasks", round(1 / value, 3)])
    speed = result["fit_tasks_per_second"]
    quotient = round(speed["vanilla"] / speed["limaml"], 2)
    lines.append(["fit end to end", f"{speed['limaml']:,} tasks/s", f"vanilla {speed['vanilla']:,}", quotient])
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Training against vanilla and a loop over tasks.")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=128, help="tasks a batch")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = run(options.repeats, options.tasks)
    if options.json:
        emit(result)
        return
    show("Training, one thread", ["what", "figure", "peer or floor", "time ratio"], rows(result))


if __name__ == "__main__":
    main()
