"""Training and embedding generation on one device, in tasks a second and against bare products of the same sizes.

    python -m benchmarks.gpu --device cuda|cpu [--tasks N …] [--repeats N] [--tf32] [--json]

A training step is loss, backward, clipping and AdamW on N tasks × (24 + 8) random rows, meta block 32-64-16, global
block 144-256-128-1; `as_configured` has the default inner steps and adds the un-adapted loss, and `with_transfer` also
copies its batch from main memory first. Generation is the embeddings of N tasks × 32 rows after k steps. Figures are
medians of wall time over rounds in random order, the device waited for.

`fraction_of_floor` is the floor's time over ours. The floor of training is the products a vanilla step can't do
without (three a layer and row), of generation those of k backward and k + 1 forward passes down to the embedding, each
as one bare `torch.mm` on data that is there already: a fraction above 1 means that fewer products were needed.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from benchmarks import inputs
from benchmarks.reporting import emit, show
from benchmarks.training import training_step
from limaml.data.batches import TaskBatch
from limaml.learning.adaptation import embed
from limaml.learning.network import Network
from limaml.learning.objective import limaml_loss, vanilla_loss
from limaml.learning.precision import fast_products
from limaml.learning.rows import Rows, rows_of

SUPPORT, QUERY = 24, 8
GENERATED_STEPS = (1, 3)
TASKS = {"cpu": (128,), "cuda": (128, 1024, 8192)}
META, GLOBAL = (inputs.META, 64, 16), (inputs.OTHER + 16, 256, 128, 1)


class Device:
    """Where it runs, and how to wait for it."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)

    @property
    def words(self) -> str:
        """What it is, for a reader."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU, {torch.get_num_threads()} threads"

    def seconds(self, work: Callable[[], Any]) -> float:
        """Wall time of one call, everything it started on the device included."""
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started

    def peak_bytes(self, work: Callable[[], Any]) -> int | None:
        """Most memory that tensors took on a GPU during a call."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        self.seconds(work)
        return torch.cuda.max_memory_allocated(self.device)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def medians(device: Device, candidates: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 3) -> dict:
    """Median seconds of every candidate, over rounds of random order."""
    generator = np.random.default_rng(0)
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeats):
        for position in generator.permutation(len(names)):
            taken = device.seconds(candidates[names[position]])
            if turn >= warmup:
                seconds[names[position]].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def training_steps(device: Device, adapted: str, batch: TaskBatch) -> dict[str, Callable[[], None]]:
    """One step of each kind; each trains a network of its own."""
    app = inputs.application(adapted)
    settings = app.training
    rows = rows_of(batch, device.device)
    is_query = torch.as_tensor(batch.is_query).to(device.device)
    support, query = rows.where(~is_query), rows.where(is_query)
    configured = (settings.inner_steps, settings.global_gradient, settings.unadapted_weight)

    def configured_loss(net: Network, rows: Rows) -> torch.Tensor:
        return limaml_loss(net, rows.where(~is_query), rows.where(is_query), *configured, rows)

    losses: dict[str, Callable[[Network], torch.Tensor]] = {
        "vanilla": lambda net: vanilla_loss(net, rows),
        "n1_direct": lambda net: limaml_loss(net, support, query, 1, "direct"),
        "n1_full": lambda net: limaml_loss(net, support, query, 1, "full"),
        "n5_direct": lambda net: limaml_loss(net, support, query, 5, "direct"),
        "as_configured": lambda net: configured_loss(net, rows),
        "with_transfer": lambda net: configured_loss(net, rows_of(batch, device.device)),
    }
    return {name: training_step(inputs.network(app).to(device.device), loss) for name, loss in losses.items()}


def products(device: Device, rows: int, passes: Mapping[tuple[int, ...], tuple[int, int, int]]) -> Callable[[], None]:
    """Bare products of MLPs on so many rows: widths → how many forward, input gradient and weight gradient passes."""
    work: list[tuple[torch.Tensor, torch.Tensor]] = []
    for widths, counts in passes.items():
        for inputs_, units in pairwise(widths):
            x, weight, delta = (
                torch.randn(shape, device=device.device) for shape in ((rows, inputs_), (inputs_, units), (rows, units))
            )
            each = ((x, weight), (delta, weight.mT), (x.mT, delta))
            work += [pair for pair, count in zip(each, counts, strict=True) for _ in range(count)]

    def run() -> None:
        for a, b in work:
            torch.mm(a, b)

    return run


def measure(device: Device, adapted: str, tasks: int, repeats: int) -> dict[str, Any]:
    """Figures of one batch size."""
    length = SUPPORT + QUERY
    training = training_steps(device, adapted, inputs.batch(tasks, SUPPORT, QUERY))
    network = inputs.network(inputs.application(adapted)).to(device.device).eval().requires_grad_(False)
    support = rows_of(inputs.batch(tasks, length, 0), device.device)
    generation = {f"k{k}": partial(embed, network, support, k) for k in GENERATED_STEPS}
    floors = {"floor": products(device, tasks * length, {META: (1, 1, 1), GLOBAL: (1, 1, 1)})}
    for k in GENERATED_STEPS:
        floors[f"floor_k{k}"] = products(device, tasks * length, {META: (k + 1, k, 0), GLOBAL: (k, k, 0)})
    seconds = medians(device, {**training, **generation, **floors}, repeats)

    def figures(names: Mapping[str, Any], floor: Callable[[str], str]) -> dict[str, dict[str, float]]:
        return {
            name: {
                "tasks_per_second": round(tasks / seconds[name], 1),
                "ratio_to_vanilla": round(seconds[name] / seconds["vanilla"], 3),
                "fraction_of_floor": round(seconds[floor(name)] / seconds[name], 3),
            }
            for name in names
        }

    return {
        "tasks": tasks,
        "training": figures(training, lambda name: "floor"),
        "generation": figures(generation, lambda name: f"floor_{name}"),
        "training_peak_bytes": {name: device.peak_bytes(step) for name, step in training.items()},
    }


def run(name: str, tasks: tuple[int, ...] = (), repeats: int = 20, tf32: bool = False) -> dict[str, Any]:
    """Every figure; see the top of the file."""
    device = Device(name)
    before = torch.get_float32_matmul_precision()
    if device.device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    with fast_products(device.device):
        sizes = tasks or TASKS[device.device.type]
        found = {form: [measure(device, form, n, repeats) for n in sizes] for form in inputs.ADAPTED}
    torch.set_float32_matmul_precision(before)
    return {"device": device.words, "torch": torch.__version__, "tf32": tf32, "rows_per_task": SUPPORT + QUERY, **found}


def rows(result: dict[str, Any]) -> list[list[Any]]:
    """The figures as lines of a table."""
    return [
        [f"{form}, {part}, {name}", size["tasks"], *(f"{value:,}" for value in figures.values())]
        for form in inputs.ADAPTED
        for size in result[form]
        for part in ("training", "generation")
        for name, figures in size[part].items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Training and generation on one device.")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--tasks", type=int, nargs="*", default=(), help="tasks a batch; several are measured in turn")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here")
    result = run(options.device, tuple(options.tasks), options.repeats, options.tf32)
    if options.json:
        emit(result)
        return
    columns = ["what", "tasks a batch", "tasks/s", "time over vanilla", "fraction of floor"]
    show(f"{result['device']}, torch {result['torch']}", columns, rows(result))


if __name__ == "__main__":
    main()
