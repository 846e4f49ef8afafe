"""The network split in two (§4): a meta block adapted per task, a global block shared by all.

Shapes are those of `limaml.learning.rows`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from limaml.learning.blocks import GlobalBlock, History, MetaBlock
from limaml.learning.encoders import FeatureEncoder, FeatureStatistics
from limaml.learning.rows import Rows
from limaml.learning.shifts import Shifts, below
from limaml.learning.transformer import TransformerBlock


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that fixes the network's parameters and its inner loop; plain values, kept beside the weights."""

    embedding_width: int
    meta_block: Literal["mlp", "transformer"]
    meta_hidden: tuple[int, ...]
    global_hidden: tuple[int, ...]
    meta_category_widths: tuple[int, ...]
    other_category_widths: tuple[int, ...]
    item_product: bool
    adapted_bias: bool
    bias_gate: bool
    dropout: float
    adapted: Literal["embedding", "meta_block", "network"]
    task_learning_rate: float
    learned_task_learning_rate: bool
    inner_loss: Literal["mean", "shrunk"]
    shrinkage: float
    bias_step: Literal["gradient", "newton"]
    bias_ridge: float

    @property
    def newton_bias(self) -> bool:
        """Whether the adapted bias takes Newton steps; only a shift of the embedding has a coordinate of its own."""
        return self.bias_step == "newton" and self.adapted_bias and self.adapted == "embedding"


class Network(nn.Module):
    """Encoders, meta block, global block and what the inner loop learns about itself (step sizes, shrinkage)."""

    def __init__(self, spec: NetworkSpec, meta: FeatureStatistics, other: FeatureStatistics) -> None:
        super().__init__()
        self.spec = spec
        self.meta_encoder = FeatureEncoder(meta, spec.meta_category_widths)
        self.other_encoder = FeatureEncoder(other, spec.other_category_widths)
        self.width = spec.embedding_width + int(spec.adapted_bias)
        others = self.other_encoder.width
        self.meta_block: MetaBlock
        if spec.meta_block == "transformer":
            self.meta_block = TransformerBlock(self.meta_encoder.width, others, spec.meta_hidden, self.width)
        else:
            self.meta_block = MetaBlock(self.meta_encoder.width, spec.meta_hidden, self.width)
        self.global_block = GlobalBlock(
            others,
            spec.embedding_width,
            spec.global_hidden,
            spec.item_product,
            spec.adapted_bias,
            spec.bias_gate,
            spec.dropout,
        )
        learned = spec.learned_task_learning_rate
        start = math.log(spec.task_learning_rate)
        self.log_rate = nn.ParameterDict(
            {
                name.replace(".", "_"): nn.Parameter(
                    torch.full(parameter.shape if learned else (), start), requires_grad=learned
                )
                for name, parameter in self.adapted_parameters().items()
            }
        )
        if spec.newton_bias and learned:
            with torch.no_grad():
                self.log_rate[self.output_shift.replace(".", "_")][-1] = 0.0
        self.log_ridge = nn.Parameter(torch.tensor(math.log(spec.bias_ridge)), requires_grad=spec.newton_bias)
        self.log_shrinkage = nn.Parameter(
            torch.tensor(math.log(spec.shrinkage)), requires_grad=spec.inner_loss == "shrunk"
        )

    def adapted_parameters(self) -> dict[str, nn.Parameter]:
        """What the inner loop shifts: the meta block's output bias, the meta block, or both blocks."""
        if self.spec.adapted == "embedding":
            return {self.output_shift: self.get_parameter(self.output_shift)}
        blocks = ("meta_block",) if self.spec.adapted == "meta_block" else ("meta_block", "global_block")
        return {f"{block}.{n}": p for block in blocks for n, p in self.get_submodule(block).named_parameters()}

    @property
    def output_shift(self) -> str:
        """Name of the meta block's last bias, whose shift is a shift of the embedding."""
        return f"meta_block.layers.{len(self.spec.meta_hidden)}.bias"

    def rate(self, name: str) -> Tensor:
        """The task learning rate α of an adapted parameter: per coordinate where learned, one number where fixed."""
        return self.log_rate[name.replace(".", "_")].exp()

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Encoded meta [R, M] and other [R, O] features."""
        return (
            self.meta_encoder(rows.meta_numeric, rows.meta_category),
            self.other_encoder(rows.other_numeric, rows.other_category),
        )

    def history(self, support: Rows) -> History | None:
        """What a transformer meta block may look back on; an MLP looks at nothing."""
        return History(*self.encode(support), support) if self.spec.meta_block == "transformer" else None

    def forward(self, rows: Rows, shifts: Shifts | None = None, support: Rows | None = None) -> Tensor:
        """[R] logits, un-adapted or with each task's `shifts`; a transformer looks back on `support`, where given."""
        x_RM, z_RO = self.encode(rows)
        history = None if support is None else self.history(support)
        embedding_RW = self.meta_block(x_RM, below(shifts, "meta_block"), rows, history)
        of_global = below(shifts, "global_block")
        if not of_global:
            return self.global_block(z_RO, embedding_RW)
        return self.global_block(z_RO, embedding_RW, of_global, rows)
