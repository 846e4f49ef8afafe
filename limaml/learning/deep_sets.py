"""A meta block that reads a task's earlier samples as a set: what they say together, not which came when.

Shapes are those of `limaml.learning.rows`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limaml.learning.blocks import History, MetaBlock
from limaml.learning.rows import Rows
from limaml.learning.shifts import Shifts, linear

# A set is divided by (its samples + this): a few samples say less than many that agree.
SHRINKAGE = 3.0


class DeepSetsBlock(MetaBlock):
    """An MLP on a row's own features, plus what is read in the sum over its task's samples before it.

    A support row sums up those before it, any other row all of them. Without samples only the MLP speaks, so members
    without history meet the same block as in an MLP meta block. With fewer parameters than a transformer it over-fits
    less where few samples matter.
    """

    def __init__(self, inputs: int, others: int, hidden: tuple[int, ...], outputs: int, personal: int = 0) -> None:
        super().__init__(inputs, hidden, outputs, personal)
        width = hidden[0]
        self.sample = nn.Linear(others + 1, width)
        self.deeper = nn.Linear(width, width)
        self.mix = nn.Linear(width + 1, width)
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
        sample_RI = torch.cat([history.z_RO, past.label_R[:, None]], 1)
        h_RH = F.relu(linear(self.sample, sample_RI, shifts, "sample", past))
        h_RH = F.relu(linear(self.deeper, h_RH, shifts, "deeper", past))
        if rows is past:
            before_TSH = F.pad(past.padded(h_RH), (0, 0, 1, -1))
            sum_RH, count_R = past.flat(before_TSH.cumsum(1)), past.position_R
        else:
            sum_RH, count_R = past.sum_by_task(h_RH)[rows.task_R], past.count_T[rows.task_R]
        count_R1 = count_R.to(h_RH.dtype)[:, None]
        set_RI = torch.cat([sum_RH / (count_R1 + SHRINKAGE), count_R1.log1p()], 1)
        mix_RH = F.relu(linear(self.mix, set_RI, shifts, "mix", rows))
        return self.added(out_RW, linear(self.read, mix_RH, shifts, "read", rows) * (count_R1 > 0))
