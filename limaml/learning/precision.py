"""Faster float32 products on processors where they cost no accuracy.

`torch.set_float32_matmul_precision("medium")` allows products in bfloat16. Where the processor has matrix units for it
(AMX, ARM) that is what it means, with an error larger than an inner step's adaptation; elsewhere oneDNN takes its own
float32 kernel, on AVX-512 twice as fast as the default. Which one it is can only be measured.

oneDNN makes a kernel for every new shape, in up to a millisecond: this pays where shapes come again, for which
`limaml.learning.products` sees to it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch

Precision = Literal["highest", "medium"]

# Two float32 kernels that sum in another order differ by up to two in their largest error; bfloat16 is off by hundreds.
MAXIMUM_ERROR_RATIO = 4.0
# Well above noise: near 1 the choice, and with it the last bit of a result, would change from run to run.
MINIMUM_SPEEDUP = 1.3
_ROUNDS = 9


@contextmanager
def fast_products(device: torch.device | str = "cpu") -> Iterator[None]:
    """Float32 products on the CPU at their fastest exact setting inside the block; other devices are left alone."""
    if torch.device(device).type != "cpu":
        yield
        return
    with _precision(best_precision()):
        yield


@cache
def best_precision() -> Precision:
    """The faster setting of the two whose error is that of float32; measured once a process, in about 30 ms."""
    return choose(*measure("highest"), *measure("medium"))


def choose(seconds: float, error: float, medium_seconds: float, medium_error: float) -> Precision:
    """`medium` where it is clearly faster than `highest` and about as exact."""
    exact = medium_error <= MAXIMUM_ERROR_RATIO * error
    return "medium" if exact and medium_seconds * MINIMUM_SPEEDUP <= seconds else "highest"


def measure(precision: Precision) -> tuple[float, float]:
    """Seconds and largest error, against float64, of a product of the global block's size."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((1024, 144), (144, 256)))
    seconds = []
    with _precision(precision), torch.inference_mode():
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            product = a @ b
            seconds.append(time.perf_counter() - started)
        error = (product.double() - a.double() @ b.double()).abs().max().item()
    # The first call builds the kernel; of the others, the fastest met no other process.
    return min(seconds), error


@contextmanager
def _precision(precision: Precision) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
