"""The two blocks of the network (§4): the meta block, adapted per task, and the global block, shared by all.

Shapes are those of `limaml.learning.rows`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limaml.learning import products
from limaml.learning.piecewise import Linearized, PiecewiseLinear, along
from limaml.learning.rows import Rows
from limaml.learning.shifts import Shifts, linear


@dataclass(frozen=True)
class History:
    """Support rows as they may be looked back on: encoded features, labels, and whose they are."""

    x_RM: Tensor
    z_RO: Tensor
    rows: Rows


class MetaBlock(nn.Module):
    """An MLP [R, M] → [R, W] whose parameters may be shifted from task to task.

    Above a frozen base so many `personal` coordinates follow the MLP's outputs: 0 but for what adaptation moves.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, personal: int = 0) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.personal = nn.Parameter(torch.zeros(personal), requires_grad=False) if personal else None

    def forward(
        self, x_RM: Tensor, shifts: Shifts | None = None, rows: Rows | None = None, history: "History | None" = None
    ) -> Tensor:
        """The embeddings of rows, un-adapted or with `shifts` of this block; an MLP looks at no history."""
        del history
        h = x_RM
        for i, layer in enumerate(self.layers):
            h = linear(layer, F.relu(h) if i else h, shifts or {}, f"layers.{i}", rows)  # type: ignore[arg-type]
        if self.personal is None:
            return h
        own_RP = self.personal.expand(h.shape[0], -1)
        if (shift := (shifts or {}).get("personal")) is not None:
            assert rows is not None, "shifted coordinates need to know the rows' tasks"
            assert isinstance(shift, Tensor)
            own_RP = own_RP + shift[rows.task_R]
        return torch.cat([h, own_RP], 1)

    @staticmethod
    def added(out_RW: Tensor, read_RP: Tensor) -> Tensor:
        """Embeddings with what a block read in the history: above a frozen base it adds to what is personal alone."""
        return out_RW + F.pad(read_RP, (out_RW.shape[1] - read_RP.shape[1], 0))


class LooksBack(MetaBlock, ABC):
    """An MLP on a row's own features, plus what is read in its task's samples before it, labels included.

    A support row looks back on those before it, any other row on all of them. Without samples only the MLP speaks, so
    members without history meet the same block as in an MLP meta block.
    """

    read: nn.Linear

    def forward(
        self, x_RM: Tensor, shifts: Shifts | None = None, rows: Rows | None = None, history: History | None = None
    ) -> Tensor:
        """The embeddings of rows; `history` is what there is to look back on."""
        out_RW = super().forward(x_RM, shifts, rows)
        if history is None or rows is None or len(history.rows.label_R) == 0:
            return out_RW
        past, shifts = history.rows, shifts or {}
        count_R = rows.position_R if rows is past else past.count_T[rows.task_R]
        seen_RH = self.look_back(x_RM, count_R, shifts, rows, history)
        read_RW = linear(self.read, seen_RH, shifts, "read", rows)
        return self.added(out_RW, read_RW * (count_R > 0)[:, None].to(read_RW.dtype))

    @abstractmethod
    def look_back(self, x_RM: Tensor, count_R: Tensor, shifts: Shifts, rows: Rows, history: History) -> Tensor:
        """[R, H] what `read` is to make embeddings of; `count_R` [R] is how many samples each row looks back on."""

    @staticmethod
    def silent(width: int, outputs: int) -> nn.Linear:
        """A layer that adds nothing at first."""
        layer = nn.Linear(width, outputs)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer


class GlobalBlock(nn.Module):
    """[R, O] and [R, W] → [R] logits: an MLP over features, embedding and their product, plus the adapted bias.

    Of several task definitions the embeddings lie side by side, then their biases: `width` of them all, and `biases`.
    A bias passes a gate that reads the other features: where they already know how often a member responds (a past
    rate, a count), less of a base rate is left to adapt.

    Any module called alike can take its place; one that has no `linearized` is differentiated by autograd, and where
    it is not piecewise linear it must say so by `piecewise_linear = False`.
    """

    piecewise_linear = True

    def __init__(
        self,
        inputs: int,
        width: int,
        hidden: tuple[int, ...],
        item_product: bool,
        biases: int,
        bias_gate: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.width = width
        self.biases = biases
        self.gate = open_gate(inputs, biases) if biases and bias_gate else None
        self.item = nn.Linear(inputs, width) if item_product else None
        widths = [inputs + width + (width if item_product else 0), *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1], 1)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, z_RO: Tensor, embedding_RW: Tensor, shifts: Shifts | None = None, rows: Rows | None = None
    ) -> Tensor:
        """Logits of rows, with `shifts` of this block's parameters where every weight is adapted."""
        shifts = shifts or {}
        e_RD = embedding_RW[:, : self.width]
        parts = [z_RO, e_RD]
        bias_RB = embedding_RW[:, self.width :]
        if self.gate is not None:
            bias_RB = bias_RB * F.softplus(linear(self.gate, z_RO, shifts, "gate", rows))
        logit_R = bias_RB.sum(1)
        if self.item is not None:
            product_RD = e_RD * linear(self.item, z_RO, shifts, "item", rows)
            parts.append(product_RD)
            # Their plain dot product gives the inner loop a gradient along the item's vector from the first step on.
            logit_R = logit_R + product_RD.sum(1)
        h = torch.cat(parts, dim=1)
        for i, layer in enumerate(self.hidden):
            h = self.dropout(F.relu(linear(layer, h, shifts, f"hidden.{i}", rows)))  # type: ignore[arg-type]
        return logit_R + linear(self.out, h, shifts, "out", rows).squeeze(1)

    def linearized(self, z_RO: Tensor, constant: bool, steps: int = 1) -> Linearized:
        """Logit and ∂logit/∂embedding as functions of the embedding alone; `constant` cuts the gradient to θ_global.

        What the first layer makes of the other features is kept where several `steps` follow; for a single one it is
        one product of them and the embedding. Rows go through in chunks that stay in the processor's cache.
        """
        of = torch.detach if constant else _itself
        layers = [*self.hidden, self.out]
        weight, bias = of(layers[0].weight), of(layers[0].bias)
        outer = z_RO.shape[1]
        weight_z, weight_e = weight[:, :outer], weight[:, outer : outer + self.width]
        weight_v = None if self.item is None else weight[:, outer + self.width :]
        rest = [of(parameter) for layer in layers[1:] for parameter in (layer.weight, layer.bias)]
        network = PiecewiseLinear(weight_e, weight_v, rest)

        def item_vector(z_RO: Tensor) -> Tensor | None:
            return None if self.item is None else F.linear(z_RO, of(self.item.weight), of(self.item.bias))

        def before(z_RO: Tensor) -> tuple[Tensor, Tensor | None]:
            return products.linear(z_RO, weight_z, bias), item_vector(z_RO)

        sizes = products.piece_sizes(z_RO)
        chunks = of(z_RO).split(sizes)
        open_RB = (
            None if self.gate is None else F.softplus(F.linear(of(z_RO), of(self.gate.weight), of(self.gate.bias)))
        )
        kept = [before(z_RO) for z_RO in chunks] if steps > 1 else None

        @torch.no_grad()
        def one_constant(index: int, e_RD: Tensor) -> tuple[Tensor, Tensor]:
            with products.piece_products(e_RD):
                if kept is None:
                    z_RO = chunks[index]
                    v_RD = item_vector(z_RO)
                    read = [z_RO, e_RD] if v_RD is None else [z_RO, e_RD, e_RD * v_RD]
                    a_RH = F.linear(torch.cat(read, 1), weight, bias)
                else:
                    first_RH, v_RD = kept[index]
                    a_RH = network.with_embedding(first_RH.clone(), e_RD, v_RD)
                return network.constant(a_RH, e_RD, v_RD, self._drops(a_RH))

        def one(index: int, e_RD: Tensor) -> tuple[Tensor, Tensor]:
            if constant:
                return one_constant(index, e_RD)
            first_RH, v_RD = before(chunks[index]) if kept is None else kept[index]
            return network.logit_and_gradient(first_RH, e_RD, v_RD, self._drops(first_RH), overwrite=kept is None)

        def linearize(embedding_RW: Tensor) -> tuple[Tensor, Tensor]:
            e_RD = embedding_RW[:, : self.width]
            parts = [one(index, e_RD) for index, e_RD in enumerate(e_RD.split(sizes))]
            logit_R, gradient_RW = (torch.cat(part) for part in zip(*parts, strict=True))
            if self.biases:
                bias_RB = embedding_RW[:, self.width :].detach() if constant else embedding_RW[:, self.width :]
                slope_RB = torch.ones_like(bias_RB) if open_RB is None else open_RB
                logit_R = logit_R + (bias_RB * slope_RB).sum(1)
                gradient_RW = torch.cat([gradient_RW, slope_RB], 1)
            return along(logit_R, gradient_RW, embedding_RW) if constant else logit_R, gradient_RW

        return linearize

    def _drops(self, like_RH: Tensor) -> Sequence[Tensor]:
        if not self.training or self.dropout.p == 0:
            return ()
        return [self.dropout(like_RH.new_ones(len(like_RH), layer.out_features)) for layer in self.hidden]  # type: ignore[arg-type]


def open_gate(inputs: int, biases: int) -> nn.Linear:
    """[R, inputs] → [R, B], before softplus: a gate for biases, wide open at first, since softplus(0.5413) = 1."""
    gate = nn.Linear(inputs, biases)
    nn.init.zeros_(gate.weight)
    nn.init.constant_(gate.bias, math.log(math.e - 1))
    return gate


def _itself(tensor: Tensor) -> Tensor:
    return tensor
