"""How a task's adapted parameters differ from the shared ones.

The inner loop moves a layer's weight by a sum of outer products over the task's samples. Kept as its factors, the shift
is applied to a task's rows by two thin products, and no [T, out, in] tensor is ever made.

Shapes are those of `limaml.learning.rows`; S rows of the longest task, I inputs and U units of a layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limaml.learning import products
from limaml.learning.rows import Rows


@dataclass(frozen=True)
class LowRank:
    """A weight's shift −Σ_s delta_s·input_sᵀ of every task: `delta` [T, S, U] carries the step size."""

    input_TSI: Tensor
    delta_TSU: Tensor


# A bias's shift is [T, U]; a weight's is [T, U, I] or its factors.
Shift = Tensor | LowRank
Shifts = Mapping[str, Shift]


def below(shifts: Shifts | None, name: str) -> Shifts:
    """The shifts of a submodule, under its own names."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in (shifts or {}).items() if key.startswith(prefix)}


def times_weight(x_TSI: Tensor, shift: Shift) -> Tensor:
    """[T, S, U] what a weight's shift adds to a layer's output."""
    if isinstance(shift, LowRank):
        return -torch.bmm(torch.bmm(x_TSI, shift.input_TSI.mT), shift.delta_TSU)
    return torch.bmm(x_TSI, shift.mT)


def linear(layer: nn.Linear, x_RI: Tensor, shifts: Shifts, name: str, rows: Rows | None) -> Tensor:
    """[R, U] a layer's output with each row's own task's shifts, where the layer has any."""
    out_RU = products.linear(x_RI, layer.weight, layer.bias)
    weight, bias = shifts.get(f"{name}.weight"), shifts.get(f"{name}.bias")
    if weight is None and bias is None:
        return out_RU
    assert rows is not None, "shifted parameters need to know the rows' tasks"
    if weight is not None:
        out_RU = out_RU + rows.flat(times_weight(rows.padded(x_RI), weight))
    if bias is not None:
        assert isinstance(bias, Tensor)
        out_RU = out_RU + bias[rows.task_R]
    return out_RU
