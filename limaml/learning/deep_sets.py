"""A meta block that reads a task's earlier samples as a set: what they say together, not which came when.

Shapes are those of `limaml.learning.rows`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limaml.learning.blocks import History, LooksBack
from limaml.learning.rows import Rows
from limaml.learning.shifts import Shifts, linear

# A set is divided by (its samples + this): a few samples say less than many that agree.
SHRINKAGE = 3.0


class DeepSetsBlock(LooksBack):
    """Reads the shrunken sum over a row's samples. With fewer parameters than a transformer it over-fits less where few
    samples matter.
    """

    def __init__(self, inputs: int, others: int, hidden: tuple[int, ...], outputs: int, personal: int = 0) -> None:
        super().__init__(inputs, hidden, outputs, personal)
        width = hidden[0]
        self.sample = nn.Linear(others + 1, width)
        self.deeper = nn.Linear(width, width)
        self.mix = nn.Linear(width + 1, width)
        self.read = self.silent(width, personal or outputs)

    def look_back(self, x_RM: Tensor, count_R: Tensor, shifts: Shifts, rows: Rows, history: History) -> Tensor:
        past = history.rows
        sample_RI = torch.cat([history.z_RO, past.label_R[:, None]], 1)
        h_RH = F.relu(linear(self.sample, sample_RI, shifts, "sample", past))
        h_RH = F.relu(linear(self.deeper, h_RH, shifts, "deeper", past))
        if rows is past:
            before_TSH = F.pad(past.padded(h_RH), (0, 0, 1, -1))
            sum_RH = past.flat(before_TSH.cumsum(1))
        else:
            sum_RH = past.sum_by_task(h_RH)[rows.task_R]
        count_R1 = count_R.to(h_RH.dtype)[:, None]
        set_RI = torch.cat([sum_RH / (count_R1 + SHRINKAGE), count_R1.log1p()], 1)
        return F.relu(linear(self.mix, set_RI, shifts, "mix", rows))
