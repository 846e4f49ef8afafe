"""A global block in two parts: a frozen base, which scores as vanilla does, and what is added for a task.

Shapes are those of `limaml.learning.rows`; P personal coordinates of an embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limaml.learning.blocks import GlobalBlock, open_gate
from limaml.learning.piecewise import Linearized

# A rate's worth may depend on a count beside it: more than a line can say, and the base says nothing of it here.
GATE_WIDTH = 16


class PersonalBlock(nn.Module):
    """[R, O] and [R, W] → [R] logits: those of a base that does not learn, plus e·P(z) + b·s(z) of features z.

    An embedding holds what the base reads, then the personal e and b. Un-adapted these are 0, and the logit is the
    base's to the bit. Only they move in the inner loop, and the logit is linear in them.
    """

    piecewise_linear = True

    def __init__(self, base: GlobalBlock, inputs: int) -> None:
        super().__init__()
        self.base = base
        self.read = base.width + base.biases
        self.item = nn.Linear(inputs, base.width)
        self.gate: nn.Module | None = None
        if base.gate is not None:
            self.gate = nn.Sequential(nn.Linear(inputs, GATE_WIDTH), nn.ReLU(), open_gate(GATE_WIDTH, base.biases))

    def train(self, mode: bool = True) -> "PersonalBlock":
        """As of any module, except that nothing of the base is ever dropped out."""
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, z_RO: Tensor, embedding_RW: Tensor) -> Tensor:
        """Logits of rows."""
        personal_RP = embedding_RW[:, self.read :]
        return self.base(z_RO, embedding_RW[:, : self.read]) + (personal_RP * self.slope(z_RO)).sum(1)

    def linearized(self, z_RO: Tensor, constant: bool, steps: int = 1) -> Linearized:
        """As `GlobalBlock.linearized`; what the base reads does not move, so its logit is made once, its slope 0."""
        slope_RP = self.slope(z_RO).detach() if constant else self.slope(z_RO)
        base: list[Tensor] = []

        def linearize(embedding_RW: Tensor) -> tuple[Tensor, Tensor]:
            if not base:
                base.append(self.base(z_RO, embedding_RW[:, : self.read]))
            logit_R = base[0] + (embedding_RW[:, self.read :] * slope_RP).sum(1)
            return logit_R, F.pad(slope_RP, (self.read, 0))

        return linearize

    def slope(self, z_RO: Tensor) -> Tensor:
        """[R, P] what the personal coordinates are multiplied by."""
        if self.gate is not None:
            return torch.cat([self.item(z_RO), F.softplus(self.gate(z_RO))], 1)
        return F.pad(self.item(z_RO), (0, self.base.biases), value=1.0)
