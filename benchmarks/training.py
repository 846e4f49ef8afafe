"""One training step against a vanilla step on the same rows, a loop over tasks, and `vmap`; `fit` end to end.

    python -m benchmarks.training [--repeats N] [--tasks N] [--json]

A step is loss, backward, clipping and AdamW on 128 tasks × (24 + 8) random rows, meta block 32-64-16, global block
144-256-128-1, one thread, freed memory kept as in training. Figures are medians over rounds of CPU time in random
order. `ratio_to_vanilla` is ours over a vanilla step in plain PyTorch, `ratio_to_own_vanilla` over the library's own,
which is faster (`limaml.learning.products`). `loop_over_ours` is a loop over tasks with `higher` over ours (`higher`
knows the full gradient only, so it runs that beside both), `lean_loop_over_ours` one that does nothing in vain. The
paper's Table 9 gives 2.05 (n = 1) and 3.21 (n = 5).

The first level of the JSON is the paper's form: the whole meta block is adapted at one α, by the mean loss.
`n1_any_module` has a global block the library knows nothing about; `n1_ragged` tasks of 4 to 64 rows, log-normal,
beside vanilla on the same rows. `learned_rates` learns α per coordinate; `embedding` adapts the block's output shift
with learned α and κ, the default; `as_configured` has all defaults, the un-adapted loss among them. `memory_over_vmap`
is the peak of a step's memory over that of `torch.func.vmap(grad)`, with a meta block 256-512-64 and a global block
192-256-128-1, each in a process of its own. `fast_products` repeats the first level with the float32 products the
library chooses on this processor (`limaml.learning.precision`); all else has torch's default. `fit` is an epoch from
parquet: it adds reading, shuffling and checkpoints.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import inputs
from benchmarks.loops import higher_loss, loop_loss, plain_vanilla_loss, split, vmap_loss
from benchmarks.reporting import emit, interleaved, peak_mebibytes, ratio, show, single_thread
from limaml.config import Application
from limaml.data.batches import TaskBatch
from limaml.learning.buffers import keep_freed_memory
from limaml.learning.network import Network
from limaml.learning.objective import limaml_loss, vanilla_loss
from limaml.learning.precision import best_precision, fast_products
from limaml.learning.rows import Rows, rows_of, support_and_query

SUPPORT, QUERY = 24, 8
STEPS = (1, 3, 5)
GRADIENTS = ("direct", "full")
PAPER = {"n1": 2.05, "n5": 3.21}
Step = Callable[[], None]


class AnyModule(nn.Module):
    """A global block of the same size that offers nothing but being called."""

    piecewise_linear = True

    def __init__(self) -> None:
        super().__init__()
        sizes = (inputs.OTHER + 16, 256, 128)
        hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))

    def forward(self, z_RO: Tensor, embedding_RW: Tensor) -> Tensor:
        return self.layers(torch.cat([z_RO, embedding_RW], 1)).squeeze(1)


def papers_form() -> Application:
    """The whole meta block adapted at one α by the mean loss."""
    return inputs.application("meta_block", learned_task_learning_rate=False, inner_loss="mean")


def ragged_batch(tasks: int) -> TaskBatch:
    """Tasks of 4 to 64 rows, the oldest three quarters of each its support."""
    lengths = inputs.ragged_lengths(tasks)
    return inputs.ragged_batch(lengths, lengths * SUPPORT // (SUPPORT + QUERY))


def steps(app: Application, batch: TaskBatch, counts: tuple[int, ...] = STEPS, loops: bool = True) -> dict[str, Step]:
    """One training step of each kind on one batch, by name; each trains a network of its own."""
    rows, (support, query) = rows_of(batch), support_and_query(batch)
    losses: dict[str, Callable[[Network], Tensor]] = {
        "vanilla": lambda net: plain_vanilla_loss(net, rows),
        "own_vanilla": lambda net: vanilla_loss(net, rows),
    }
    pairs = list(zip(split(support), split(query), strict=True)) if loops else []
    for gradient in GRADIENTS:
        for count in counts:
            losses[f"n{count}_{gradient}"] = partial(_ours, support, query, count, gradient)
        if loops:
            losses[f"lean_loop_n1_{gradient}"] = partial(_loop, pairs, 1, gradient)
    if loops:
        losses["loop_n1"] = lambda net: higher_loss(net, pairs, 1)
    return {name: training_step(inputs.network(app), loss) for name, loss in losses.items()}


def _ours(support: Rows, query: Rows, n: int, gradient: Any, network: Network) -> Tensor:
    return limaml_loss(network, support, query, n, gradient)


def _loop(pairs: list[tuple[Rows, Rows]], n: int, gradient: str, network: Network) -> Tensor:
    return loop_loss(network, pairs, n, gradient)


def training_step(network: Network, loss: Callable[[Network], Tensor]) -> Step:
    """Loss, backward, clipping and AdamW, as one call."""
    optimizer = torch.optim.AdamW((p for p in network.parameters() if p.requires_grad), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(network).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step


def _papers_figures(repeats: int, tasks: int) -> dict[str, Any]:
    app, batch = papers_form(), inputs.batch(tasks, SUPPORT, QUERY)
    support, query = support_and_query(batch)
    candidates = steps(app, batch)
    any_module = inputs.network(app)
    any_module.global_block = AnyModule()  # type: ignore[assignment]
    candidates["n1_any_module"] = training_step(any_module, partial(_ours, support, query, 1, "direct"))
    ragged = steps(app, ragged_batch(tasks), (1,), loops=False)
    candidates |= {"n1_ragged": ragged["n1_direct"]}
    candidates |= {f"{vanilla}_ragged": ragged[vanilla] for vanilla in ("vanilla", "own_vanilla")}
    seconds = interleaved(candidates, repeats, warmup=2)
    ours = [name for name in candidates if "vanilla" not in name and "loop" not in name]

    def over(vanilla: str) -> dict[str, float]:
        base = {name: f"{vanilla}_ragged" if name == "n1_ragged" else vanilla for name in ours}
        return {name: round(ratio(seconds, name, base[name]), 2) for name in ours}

    def under(loop: str) -> dict[str, float]:
        return {f"n1_{g}": round(ratio(seconds, loop.format(g), f"n1_{g}"), 1) for g in GRADIENTS}

    return {
        "ratio_to_vanilla": over("vanilla"),
        "ratio_to_own_vanilla": over("own_vanilla"),
        "loop_over_ours": under("loop_n1"),
        "lean_loop_over_ours": under("lean_loop_n1_{}"),
        "vanilla_step_ms": round(1e3 * statistics.median(seconds["vanilla"]), 2),
        "own_vanilla_step_ms": round(1e3 * statistics.median(seconds["own_vanilla"]), 2),
    }


def _other_figures(app: Application, repeats: int, tasks: int) -> dict[str, Any]:
    batch = inputs.batch(tasks, SUPPORT, QUERY)
    candidates = steps(app, batch, loops=False)
    options, rows, (support, query) = app.training, rows_of(batch), support_and_query(batch)
    how = (options.inner_steps, options.global_gradient, options.unadapted_weight, rows)
    candidates["as_configured"] = training_step(inputs.network(app), lambda net: limaml_loss(net, support, query, *how))
    seconds = interleaved(candidates, repeats, warmup=2)
    return {name: round(ratio(seconds, name, "vanilla"), 2) for name in candidates if "vanilla" not in name}


def peak(kind: str, tasks: int) -> float:
    """MiB that one full-gradient step of `ours` or `vmap` adds to this process at its height."""
    single_thread()
    changes = {"learned_task_learning_rate": False, "inner_loss": "mean"}
    app = inputs.application("meta_block", wide=True, **changes)
    network, rate = inputs.network(app), app.training.task_learning_rate
    loss = {
        "ours": lambda s, q: limaml_loss(network, s, q, 1, "full"),
        "vmap": lambda s, q: vmap_loss(network, s, q, rate),
    }[kind]
    small, large = (support_and_query(inputs.batch(n, SUPPORT, QUERY, meta=inputs.WIDE_META)) for n in (2, tasks))
    loss(*small).backward()
    return peak_mebibytes(lambda: loss(*large).backward())


def memory(tasks: int) -> dict[str, float]:
    """Peak memory of a step, ours and vmap's, and their ratio."""
    figures = {}
    for kind in ("ours", "vmap"):
        command = [sys.executable, "-m", "benchmarks.training", "--peak", kind, "--tasks", str(tasks)]
        figures[kind] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {"ours_mib": figures["ours"], "vmap_mib": figures["vmap"], "ratio": figures["ours"] / figures["vmap"]}


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
    keep_freed_memory()
    result: dict[str, Any] = {"adapted": "meta_block", **_papers_figures(repeats, tasks)}
    result["learned_rates"] = _other_figures(inputs.application("meta_block"), repeats, tasks)
    result["embedding"] = _other_figures(inputs.application("embedding"), repeats, tasks)
    with fast_products():
        result["fast_products"] = {"chosen": best_precision(), **_papers_figures(repeats, tasks)}
        speed = fit_speed(fit_tasks)
    of_memory = memory(tasks)
    return result | {
        "memory_over_vmap": round(of_memory["ratio"], 2),
        "memory_mib": {kind: round(of_memory[f"{kind}_mib"], 1) for kind in ("ours", "vmap")},
        "fit_tasks_per_second": speed,
        "paper": PAPER,
    }


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """The figures as lines of a table: what, figure, peer or floor, ratio."""
    lines, base = [], result["vanilla_step_ms"]
    forms = {"paper's form": result["ratio_to_vanilla"]}
    lines.append(
        [
            "vanilla step, the library's",
            f"{result['own_vanilla_step_ms']} ms",
            "plain PyTorch",
            round(result["own_vanilla_step_ms"] / base, 2),
        ]
    )
    forms |= {"paper's form, fast products": result["fast_products"]["ratio_to_vanilla"]}
    forms |= {"meta block, learned α": result["learned_rates"], "embedding": result["embedding"]}
    for form, figures in forms.items():
        for name, value in figures.items():
            peer = "vanilla" + (f"; paper {PAPER[name[:2]]}" if name[:2] in PAPER else "")
            lines.append([f"training step, {form}, {name}", f"{value * base:.1f} ms", peer, value])
    for peer in ("loop_over_ours", "lean_loop_over_ours"):
        for name, value in result[peer].items():
            shown = "loop with higher" if peer == "loop_over_ours" else "lean loop"
            lines.append([f"training step, paper's form, {name}", "", shown, round(1 / value, 3)])
    memory = result["memory_mib"]
    peer = f"vmap {memory['vmap']} MiB"
    lines.append(["step memory, meta block 256-512-64", f"{memory['ours']} MiB", peer, result["memory_over_vmap"]])
    speed = result["fit_tasks_per_second"]
    quotient = round(speed["vanilla"] / speed["limaml"], 2)
    lines.append(["fit end to end", f"{speed['limaml']:,} tasks/s", f"vanilla {speed['vanilla']:,}", quotient])
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Training against vanilla, a loop over tasks, and vmap.")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=128, help="tasks a batch")
    parser.add_argument("--peak", choices=["ours", "vmap"], help="only the peak memory of one step, in MiB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.peak:
        sys.stdout.write(f"{json.dumps(peak(options.peak, options.tasks))}\n")
        return
    result = run(options.repeats, options.tasks)
    if options.json:
        emit(result)
        return
    show("Training, one thread", ["what", "figure", "peer or floor", "time ratio"], rows(result))


if __name__ == "__main__":
    main()
