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

    def __init__(self, inputs: int, others: int, hidden: tuple[int, ...], outputs: int, personal: int = 0) -> None:
        super().__init__(inputs, hidden, outputs, personal)
        width = HEADS * max(1, hidden[0] // HEADS)
        self.asks = nn.Linear(inputs + 1, width)
        self.token = nn.Linear(inputs + others + 1, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.mix = nn.Linear(width, width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.read = nn.Linear(width, personal or outputs)
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
        # Attention averages; how many samples there are has to be said.
        count_R = rows.position_R if rows is past else past.count_T[rows.task_R]
        asks_RM = torch.cat([x_RM, count_R.to(x_RM.dtype).log1p()[:, None]], 1)
        asks_RH = linear(self.asks, asks_RM, shifts, "asks", rows)
        key_TSH = past.padded(linear(self.key, token_RH, shifts, "key", past))
        value_TSH = past.padded(linear(self.value, token_RH, shifts, "value", past))
        seen_RH = rows.flat(_attend(rows.padded(asks_RH), key_TSH, value_TSH, rows, past))
        h_RH = _norm(asks_RH + linear(self.mix, seen_RH, shifts, "mix", rows))
        inner = F.relu(linear(self.expand, h_RH, shifts, "expand", rows))
        h_RH = _norm(h_RH + linear(self.contract, inner, shifts, "contract", rows))
        read_RW = linear(self.read, h_RH, shifts, "read", rows) * (count_R > 0)[:, None].to(h_RH.dtype)
        return self.added(out_RW, read_RW)


def _attend(asks_TQH: Tensor, key_TSH: Tensor, value_TSH: Tensor, rows: Rows, past: Rows) -> Tensor:
    """[T, Q, H] attention of rows to their own task's past, several heads side by side."""

    def heads(value: Tensor) -> Tensor:
        return value.unflatten(2, (HEADS, -1)).transpose(1, 2)

    asks, key, value = heads(asks_TQH), heads(key_TSH), heads(value_TSH)
    score = asks @ key.mT / math.sqrt(asks.shape[-1]) + _visibility(rows, past, score_like=asks_TQH)
    return (torch.softmax(score, -1) @ value).transpose(1, 2).flatten(2)


@torch.no_grad()
def _visibility(rows: Rows, past: Rows, score_like: Tensor) -> Tensor:
    """[1 or T, heads, Q or 1, S] what attention scores lose by distance; minus infinity where there is nothing to see.

    A row that sees nothing at all keeps finite scores, and its caller drops what it reads.
    """
    place_S = torch.arange(past.longest, device=score_like.device)
    if rows is past:
        back = torch.arange(rows.longest, device=score_like.device)[None, None, :, None] - place_S
    else:
        back = past.count_T[:, None, None, None] - place_S
    lost = -score_like.new_tensor(FADING)[:, None, None] * back
    sees = (back > 0).any(-1, keepdim=True)
    return lost.masked_fill(back <= 0, -torch.inf).masked_fill(~sees, 0.0)


def _norm(h_RH: Tensor) -> Tensor:
    return F.layer_norm(h_RH, h_RH.shape[-1:])
