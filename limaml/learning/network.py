"""The network split in two (§4): a meta block adapted per task, a global block shared by all.

Shapes are those of `limaml.learning.rows`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limaml.learning.encoders import FeatureEncoder, FeatureStatistics
from limaml.learning.rows import Rows

Adapted = Mapping[str, Tensor]


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that fixes the network's parameters and its inner loop; plain values, kept beside the weights."""

    embedding_width: int
    meta_hidden: tuple[int, ...]
    global_hidden: tuple[int, ...]
    category_width: int
    item_product: bool
    adapted_bias: bool
    dropout: float
    adapted: Literal["meta_block", "embedding"]
    task_learning_rate: float
    learned_task_learning_rate: bool
    inner_loss: Literal["mean", "shrunk"]
    shrinkage: float


class MetaBlock(nn.Module):
    """An MLP [R, M] → [R, W] whose adapted parameters may differ from task to task."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x_RM: Tensor, adapted: Adapted | None = None, rows: Rows | None = None) -> Tensor:
        """The embeddings of rows, un-adapted or with `adapted`: parameter names of this block → tensors [T, …]."""
        if not adapted:
            return self._shared(x_RM)
        assert rows is not None, "adapted parameters need to know the rows' tasks"
        h = x_RM
        for i, layer in enumerate(self.layers):
            weight, bias = adapted.get(f"layers.{i}.weight"), adapted.get(f"layers.{i}.bias")
            shared_weight: Tensor = layer.weight  # type: ignore[assignment]
            shared_bias: Tensor = layer.bias  # type: ignore[assignment]
            h = F.linear(h, shared_weight) if weight is None else linear_per_task(h, weight, rows)
            h = h + (shared_bias if bias is None else bias[rows.task_R])
            if i + 1 < len(self.layers):
                h = F.relu(h)
        return h

    def _shared(self, x_RM: Tensor) -> Tensor:
        h = self.layers[0](x_RM)
        for layer in self.layers[1:]:
            h = layer(F.relu(h))
        return h


class GlobalBlock(nn.Module):
    """[R, O] and [R, W] → [R] logits: an MLP over features, embedding and their product, plus the adapted bias."""

    def __init__(self, spec: NetworkSpec, inputs: int) -> None:
        super().__init__()
        self.width = spec.embedding_width
        self.adapted_bias = spec.adapted_bias
        self.item = nn.Linear(inputs, self.width) if spec.item_product else None
        product = self.width if spec.item_product else 0
        widths = [inputs + self.width + product, *spec.global_hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1], 1)
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, z_RO: Tensor, embedding_RW: Tensor) -> Tensor:
        e_RD = embedding_RW[:, : self.width]
        parts = [z_RO, e_RD]
        logit_R = embedding_RW[:, -1] if self.adapted_bias else embedding_RW.new_zeros(len(embedding_RW))
        if self.item is not None:
            product_RD = e_RD * self.item(z_RO)
            parts.append(product_RD)
            # Their plain dot product gives the inner loop a gradient along the item's vector from the first step on.
            logit_R = logit_R + product_RD.sum(1)
        h = torch.cat(parts, dim=1)
        for layer in self.hidden:
            h = self.dropout(F.relu(layer(h)))
        return logit_R + self.out(h).squeeze(1)


class Network(nn.Module):
    """Encoders, meta block, global block and what the inner loop learns about itself (step sizes, shrinkage)."""

    def __init__(self, spec: NetworkSpec, meta: FeatureStatistics, other: FeatureStatistics) -> None:
        super().__init__()
        self.spec = spec
        self.meta_encoder = FeatureEncoder(meta, spec.category_width)
        self.other_encoder = FeatureEncoder(other, spec.category_width)
        self.width = spec.embedding_width + int(spec.adapted_bias)
        self.meta_block = MetaBlock(self.meta_encoder.width, spec.meta_hidden, self.width)
        self.global_block = GlobalBlock(spec, self.other_encoder.width)
        last = f"layers.{len(spec.meta_hidden)}.bias"
        names = [name for name, _ in self.meta_block.named_parameters()]
        self.adapted_names = names if spec.adapted == "meta_block" else [last]
        learned = spec.learned_task_learning_rate
        start = math.log(spec.task_learning_rate)
        parameters = dict(self.meta_block.named_parameters())
        self.log_rate = nn.ParameterDict(
            {
                name.replace(".", "_"): nn.Parameter(torch.full_like(parameters[name], start), requires_grad=learned)
                for name in self.adapted_names
            }
        )
        self.log_shrinkage = nn.Parameter(
            torch.tensor(math.log(spec.shrinkage)), requires_grad=spec.inner_loss == "shrunk"
        )

    def initial(self, tasks: int) -> dict[str, Tensor]:
        """θ_meta's adapted parameters, one copy a task (views, no memory)."""
        parameters = dict(self.meta_block.named_parameters())
        return {name: parameters[name].expand(tasks, *parameters[name].shape) for name in self.adapted_names}

    def rate(self, name: str) -> Tensor:
        """The task learning rate α of an adapted parameter, per coordinate."""
        return self.log_rate[name.replace(".", "_")].exp()

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Encoded meta [R, M] and other [R, O] features."""
        return (
            self.meta_encoder(rows.meta_numeric, rows.meta_category),
            self.other_encoder(rows.other_numeric, rows.other_category),
        )

    def forward(self, rows: Rows, adapted: Adapted | None = None) -> Tensor:
        """[R] logits, with `adapted` parameters or un-adapted."""
        x_RM, z_RO = self.encode(rows)
        return self.global_block(z_RO, self.meta_block(x_RM, adapted, rows))


def linear_per_task(x_RI: Tensor, weight_TOI: Tensor, rows: Rows) -> Tensor:
    """Multiply each row by its own task's matrix: rows are laid out as [T, longest, I] for one batched product."""
    count_T = torch.bincount(rows.task_R, minlength=rows.tasks)
    longest = int(count_T.max()) if len(rows.task_R) else 0
    start_T = count_T.cumsum(0) - count_T
    place_R = rows.task_R * longest + torch.arange(len(x_RI), device=x_RI.device) - start_T[rows.task_R]
    padded = x_RI.new_zeros(rows.tasks * longest, x_RI.shape[1]).index_copy(0, place_R, x_RI)
    out = torch.bmm(padded.view(rows.tasks, longest, -1), weight_TOI.transpose(1, 2))
    return out.reshape(rows.tasks * longest, -1)[place_R]
