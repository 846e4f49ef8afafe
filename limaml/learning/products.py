"""Float32 products of many rows at the processor's fastest exact setting, whatever their number.

The faster kernels are made anew for every shape (`limaml.learning.precision`), and hardly two batches have the same
number of rows. Rows therefore go through in pieces of a few sizes, which also stay in the processor's cache; fewer rows
than the smallest piece, and products too small to gain, take the default.

Shapes are those of `limaml.learning.rows`; I inputs and U units of a layer.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limaml.learning.precision import best_precision, fast_products

PIECES = (1024, 512, 256, 128)
# Below this many weights the default is as fast.
_WEIGHTS = 1 << 13


def piece_sizes(x_RI: Tensor) -> list[int]:
    """How many rows go through at once, in order; they sum to R. Other devices than the processor take all of them."""
    rows, sizes = len(x_RI), list[int]()
    if x_RI.device.type != "cpu":
        return [rows]
    for size in PIECES:
        sizes += [size] * ((rows - sum(sizes)) // size)
    left = rows - sum(sizes)
    return [*sizes, left] if left else sizes


def piece_products(piece_RI: Tensor) -> AbstractContextManager[None]:
    """The products of a piece of rows: the fastest exact ones, or the default's for what is left over."""
    return fast_products(piece_RI.device) if len(piece_RI) in PIECES else nullcontext()


def linear(x_RI: Tensor, weight_UI: Tensor, bias_U: Tensor) -> Tensor:
    """[R, U] a layer's output, forwards and backwards at the fastest exact products."""
    gains = weight_UI.numel() >= _WEIGHTS and len(x_RI) >= PIECES[-1] and weight_UI.dtype == torch.float32
    if not gains or x_RI.device.type != "cpu" or best_precision() == "highest":
        return F.linear(x_RI, weight_UI, bias_U)
    if torch.is_grad_enabled() and (x_RI.requires_grad or weight_UI.requires_grad or bias_U.requires_grad):
        return _Linear.apply(x_RI, weight_UI, bias_U)
    with torch.no_grad():
        return _by_pieces(x_RI, weight_UI, bias_U)


def _by_pieces(x_RI: Tensor, weight_UI: Tensor, bias_U: Tensor) -> Tensor:
    out_RU = x_RI.new_empty(len(x_RI), len(weight_UI))
    for rows in _pieces(x_RI):
        torch.addmm(bias_U, x_RI[rows], weight_UI.t(), out=out_RU[rows])
    return out_RU


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RI: Tensor, weight_UI: Tensor, bias_U: Tensor) -> Tensor:
        ctx.save_for_backward(x_RI, weight_UI)
        return _by_pieces(x_RI, weight_UI, bias_U)

    @staticmethod
    def backward(ctx: Any, g_RU: Tensor) -> tuple[Tensor | None, ...]:
        x_RI, weight_UI = ctx.saved_tensors
        if torch.is_grad_enabled():
            # The graph of a gradient of this gradient is left to autograd.
            return g_RU @ weight_UI, g_RU.t() @ x_RI, g_RU.sum(0)
        weight = torch.zeros_like(weight_UI)
        back_RI = torch.empty_like(x_RI) if ctx.needs_input_grad[0] else None
        for rows in _pieces(x_RI):
            weight.addmm_(g_RU[rows].t(), x_RI[rows])
            if back_RI is not None:
                torch.mm(g_RU[rows], weight_UI, out=back_RI[rows])
        return back_RI, weight, g_RU.sum(0)


def _pieces(x_RI: Tensor) -> Iterator[slice]:
    start = 0
    for size in piece_sizes(x_RI):
        rows = slice(start, start + size)
        with piece_products(x_RI[rows]):
            yield rows
        start += size
