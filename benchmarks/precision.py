"""What rounding the inner loop's products does to an embedding, against what adaptation does to it.

    python -m benchmarks.precision [--tasks N] [--json]

Every product's inputs are rounded as tensor cores round them (TF32: 10 bits of mantissa, bfloat16: 7) and summed in
float32; bfloat16 results are rounded, too, as autocast leaves them. A figure is the median over tasks of ‖error‖ over
‖adaptation‖, where adaptation is the float32 embedding after k steps minus the one before, and the error is against
that float32 embedding: `loop` rounds the inner loop alone, `all` the final forward pass as well. 32 support rows a
task, meta block 32-64-16, global block 144-256-128-1, random weights; the task learning rate is 3.0 for the embedding,
as by default, and 0.1 for the whole meta block.
"""

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import inputs
from benchmarks.reporting import emit, show, single_thread
from limaml.learning.adaptation import adapt
from limaml.learning.network import Network
from limaml.learning.rows import Rows, rows_of
from limaml.learning.shifts import Shifts, below

ROWS = 32
STEPS = (1, 3)
TASK_LEARNING_RATES = {"meta_block": 0.1, "embedding": 3.0}
FORMATS = {"tf32": (10, False), "bf16": (7, True)}
_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addbmm", "aten::addmv", "aten::mv"}


class Rounded(TorchDispatchMode):
    """Products whose inputs, and results where `results`, keep so many bits of mantissa."""

    def __init__(self, bits: int, results: bool) -> None:
        super().__init__()
        self.bits, self.results = bits, results
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func._schema.name not in _PRODUCTS:
            return func(*args, **(kwargs or {}))
        self.products += 1
        # The term that is added to a product is summed in float32.
        first = len(args) - 2
        rounded = [rounded_to(x, self.bits) if i >= first else x for i, x in enumerate(args)]
        result = func(*rounded, **(kwargs or {}))
        return rounded_to(result, self.bits) if self.results else result


def rounded_to(x: Tensor, bits: int) -> Tensor:
    """A float32 tensor with so many bits of mantissa kept, ties to even."""
    drop = 23 - bits
    whole = x.contiguous().view(torch.int32)
    half = (1 << (drop - 1)) - 1 + ((whole >> drop) & 1)
    return ((whole + half) & -(1 << drop)).view(torch.float32)


def figures(adapted: str, tasks: int) -> dict[str, float]:
    """Error over adaptation, by format, steps and what is rounded."""
    app = inputs.application(adapted, task_learning_rate=TASK_LEARNING_RATES[adapted])
    network = inputs.network(app).eval().requires_grad_(False)
    support = rows_of(inputs.batch(tasks, ROWS, 0))
    start_TW = _embedding(network, support, {})
    found = {}
    for k in STEPS:
        exact_TW = _embedding(network, support, adapt(network, support, k))
        size_T = (exact_TW - start_TW).norm(dim=1)
        for name, (bits, results) in FORMATS.items():
            with Rounded(bits, results) as mode:
                shifts = adapt(network, support, k)
                rounded_TW = _embedding(network, support, shifts)
            assert mode.products, "no product was rounded"
            error_TW = {"loop": _embedding(network, support, shifts) - exact_TW, "all": rounded_TW - exact_TW}
            for what, error in error_TW.items():
                found[f"{name}_k{k}_{what}"] = float((error.norm(dim=1) / size_T).median())
        found[f"adaptation_k{k}"] = float((size_T / exact_TW.norm(dim=1)).median())
    return found


@torch.no_grad()
def _embedding(network: Network, support: Rows, shifts: Shifts) -> Tensor:
    """[T, W] embeddings of the newest rows."""
    embedding_RW = network.meta_block(network.encode(support)[0], below(shifts, "meta_block"), support)
    return embedding_RW[support.count_T.long().cumsum(0) - 1]


def run(tasks: int = 256) -> dict[str, Any]:
    """Every figure; see the top of the file."""
    single_thread()
    return {adapted: figures(adapted, tasks) for adapted in inputs.ADAPTED}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Rounded inner loops against the size of the adaptation.")
    parser.add_argument("--tasks", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = run(options.tasks)
    if options.json:
        emit(result)
        return
    lines = [
        [f"{adapted}, {name}, k = {k}"] + [f"{found[f'{name}_k{k}_{what}']:.2g}" for what in ("loop", "all")]
        for adapted, found in result.items()
        for name in FORMATS
        for k in STEPS
    ]
    show("Error over adaptation", ["products", "inner loop", "and final forward"], lines)


if __name__ == "__main__":
    main()
