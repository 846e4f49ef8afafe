"""A meta block that reads a task's earlier samples, labels included (the paper's future work, §8).

Shapes are those of `limaml.learning.rows`; S rows of the longest support set, Q of the longest task that asks.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limaml.learning.blocks import History, MetaBlock
from limaml.learning.rows import Rows
from limaml.learning.shifts import Shifts, linear

HEADS = 2
# What a head subtracts from an attention score for every sample in between: one head looks back evenly, one fades.
FADING = (0.0, 0.1)


class TransformerBlock(MetaBlock):
    """An MLP on a row's own features, plus what one transformer layer reads in the task's samples before it.

    A row attends to the samples of its task: a support row to those before it, any other row to all of them. Without
    samples only the MLP speaks, so members without history meet the same block as in an MLP meta block.
    """

    def __init__(self, inputs: int, others: int, hidden: tuple[int, ...], outputs: int) -> None:
        super().__init__(inputs, hidden, outputs)
        width = HEADS * max(1, hidden[0] // HEADS)
        self.asks = nn.Linear(inputs, width)
        self.token = nn.Linear(inputs + others + 1, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.mix = nn.Linear(width, width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.read = nn.Linear(width, outputs)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def forward(
        self, x_RM: Tensor, shifts: Shifts | None = None, rows: Rows | None = None, history: History | None = None
    ) -> Tensor:
        out_RW = super().forward(x_RM, shifts, rows)
        if history is None or rows is None or len(history.rows.label_R) == 0:
            return out_RW
        shifts = shifts or {}
        past = history.rows
        sign_R1 = (2 * past.label_R - 1)[:, None]
        token_RH = F.relu(
            linear(self.token, torch.cat([history.x_RM, history.z_RO, sign_R1], 1), shifts, "token", past)
        )
        asks_RH = linear(self.asks, x_RM, shifts, "asks", rows)
        key_TSH = past.padded(linear(self.key, token_RH, shifts, "key", past))
        value_TSH = past.padded(linear(self.value, token_RH, shifts, "value", past))
        seen_RH = rows.flat(_attend(rows.padded(asks_RH), key_TSH, value_TSH, rows, past))
        h_RH = _norm(asks_RH + linear(self.mix, seen_RH, shifts, "mix", rows))
        inner = F.relu(linear(self.expand, h_RH, shifts, "expand", rows))
        h_RH = _norm(h_RH + linear(self.contract, inner, shifts, "contract", rows))
        read_RW = linear(self.read, h_RH, shifts, "read", rows)
        return out_RW + read_RW * _has_past(rows, past)[:, None].to(read_RW.dtype)


def _has_past(rows: Rows, past: Rows) -> Tensor:
    """[R] whether there is a sample to look back on."""
    return rows.position_R > 0 if rows is past else past.count_T[rows.task_R] > 0


def _attend(asks_TQH: Tensor, key_TSH: Tensor, value_TSH: Tensor, rows: Rows, past: Rows) -> Tensor:
    """[T, Q, H] attention of rows to their own task's past, several heads side by side."""

    def heads(value: Tensor) -> Tensor:
        return value.unflatten(2, (HEADS, -1)).transpose(1, 2)

    asks, key, value = heads(asks_TQH), heads(key_TSH), heads(value_TSH)
    score = asks @ key.mT / math.sqrt(asks.shape[-1])
    place_S = torch.arange(key_TSH.shape[1], device=score.device)
    if rows is past:
        place_Q1 = torch.arange(asks_TQH.shape[1], device=score.device)[:, None]
        back = (place_Q1 - place_S).expand(len(score), -1, -1)
        visible = back > 0
    else:
        back = (past.count_T[:, None] - place_S)[:, None].expand(-1, asks_TQH.shape[1], -1)
        visible = back > 0
    visible = visible & (place_S < past.count_T[:, None])[:, None]
    fading = score.new_tensor(FADING)[:, None, None]
    score = (score - fading * back[:, None].to(score.dtype)).masked_fill(~visible[:, None], -torch.inf)
    # Rows that see nothing would divide zero by zero: they get weights of zero.
    weight = torch.softmax(score.masked_fill(~visible.any(-1)[:, None, :, None], 0.0), -1) * visible[:, None]
    return (weight @ value).transpose(1, 2).flatten(2)


def _norm(h_RH: Tensor) -> Tensor:
    return F.layer_norm(h_RH, h_RH.shape[-1:])
