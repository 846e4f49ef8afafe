"""A meta block that reads a task's earlier samples, labels included (the paper's future work, §8).

Shapes are those of `limaml.learning.rows`; S rows of the longest support set, Q of the longest task that asks.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limaml.learning.blocks import History, LooksBack
from limaml.learning.rows import Rows
from limaml.learning.shifts import Shifts, linear

HEADS = 2
# What a head subtracts from an attention score for every sample in between: one head looks back evenly, one fades.
FADING = (0.0, 0.1)


class TransformerBlock(LooksBack):
    """Attends to a row's samples with one transformer layer."""

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
        self.read = self.silent(width, personal or outputs)

    def look_back(self, x_RM: Tensor, count_R: Tensor, shifts: Shifts, rows: Rows, history: History) -> Tensor:
        past = history.rows
        sign_R1 = (2 * past.label_R - 1)[:, None]
        token_RH = F.relu(
            linear(self.token, torch.cat([history.x_RM, history.z_RO, sign_R1], 1), shifts, "token", past)
        )
        # Attention averages; how many samples there are has to be said.
        asks_RM = torch.cat([x_RM, count_R.to(x_RM.dtype).log1p()[:, None]], 1)
        asks_RH = linear(self.asks, asks_RM, shifts, "asks", rows)
        key_TSH = past.padded(linear(self.key, token_RH, shifts, "key", past))
        value_TSH = past.padded(linear(self.value, token_RH, shifts, "value", past))
        seen_RH = rows.flat(_attend(rows.padded(asks_RH), key_TSH, value_TSH, rows, past))
        h_RH = _norm(asks_RH + linear(self.mix, seen_RH, shifts, "mix", rows))
        inner = F.relu(linear(self.expand, h_RH, shifts, "expand", rows))
        return _norm(h_RH + linear(self.contract, inner, shifts, "contract", rows))


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
