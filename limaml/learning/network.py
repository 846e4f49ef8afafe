"""The network split in two (§4): a meta block adapted per task, a global block shared by all.

Shapes are those of `limaml.learning.rows`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from limaml.learning.blocks import GlobalBlock, History, MetaBlock
from limaml.learning.deep_sets import DeepSetsBlock
from limaml.learning.encoders import FeatureEncoder, FeatureStatistics
from limaml.learning.personal import PersonalBlock
from limaml.learning.rows import Rows
from limaml.learning.shifts import Shifts, below
from limaml.learning.transformer import TransformerBlock


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that fixes the network's parameters and its inner loop; plain values, kept beside the weights."""

    embedding_width: int
    meta_block: Literal["mlp", "transformer", "deep_sets"]
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
    base: Literal["joint", "frozen"]
    # What the meta block of each further task definition reads: places of numeric and of categorical features among the
    # meta features followed by the others.
    also_columns: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def parts(self) -> tuple[int, ...]:
        """Widths of what an embedding is made of: what a base reads, vector and bias, then as much that is personal."""
        own = self.embedding_width, int(self.adapted_bias)
        return own * 2 if self.base == "frozen" else own

    @property
    def newton_bias(self) -> bool:
        """Whether the adapted bias takes Newton steps; only a shift of the embedding has a coordinate of its own."""
        return self.bias_step == "newton" and self.adapted_bias and self.adapted == "embedding"


class Network(nn.Module):
    """Encoders, meta block, global block and what the inner loop learns about itself (step sizes, shrinkage).

    Every task definition after the first has an encoder and a meta block of its own, among `also_…`.

    With a frozen base the network holds a vanilla one that does not learn (`stand_on` brings its weights), and learns
    what is added for a task: personal coordinates of the embedding, and what they are multiplied by.
    """

    def __init__(self, spec: NetworkSpec, meta: FeatureStatistics, other: FeatureStatistics) -> None:
        super().__init__()
        self.spec = spec
        self.definitions = 1 + len(spec.also_columns)
        self.meta_encoder = FeatureEncoder(meta, spec.meta_category_widths)
        self.other_encoder = FeatureEncoder(other, spec.other_category_widths)
        self.width = sum(spec.parts)
        others = self.other_encoder.width
        self.meta_block = self._meta_block(self.meta_encoder)
        both, widths = meta.beside(other), (*spec.meta_category_widths, *spec.other_category_widths)
        also = [FeatureEncoder(both.of(n, c), [widths[place] for place in c]) for n, c in spec.also_columns]
        self.also_encoders = nn.ModuleList(also)
        self.also_blocks = nn.ModuleList(self._meta_block(encoder) for encoder in also)
        block = GlobalBlock(
            others,
            self.definitions * spec.embedding_width,
            spec.global_hidden,
            spec.item_product,
            self.definitions * int(spec.adapted_bias),
            spec.bias_gate,
            spec.dropout,
        )
        self.global_block = block if spec.base == "joint" else PersonalBlock(block, others)
        if spec.base == "frozen":
            for module in self._base():
                module.requires_grad_(False)
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
                for rate in self.log_rate.values():
                    rate[-1] = 0.0
        # One of each for every definition.
        shape = (self.definitions,) if self.definitions > 1 else ()
        ridge, shrinkage = (torch.full(shape, math.log(start)) for start in (spec.bias_ridge, spec.shrinkage))
        self.log_ridge = nn.Parameter(ridge, requires_grad=spec.newton_bias)
        self.log_shrinkage = nn.Parameter(shrinkage, requires_grad=spec.inner_loss == "shrunk")

    def _meta_block(self, encoder: FeatureEncoder) -> MetaBlock:
        hidden, read = self.spec.meta_hidden, sum(self.spec.parts[:2])
        personal = self.width - read
        if self.spec.meta_block == "mlp":
            return MetaBlock(encoder.width, hidden, read, personal)
        block = TransformerBlock if self.spec.meta_block == "transformer" else DeepSetsBlock
        return block(encoder.width, self.other_encoder.width, hidden, read, personal)

    def _base(self) -> list[nn.Module]:
        """What a vanilla network learns, in an order of its own."""
        block = self.global_block
        layers = [self.block(each).layers for each in range(self.definitions)]
        encoders = [self.meta_encoder, self.other_encoder, self.also_encoders]
        return [*encoders, *layers, block.base if isinstance(block, PersonalBlock) else block]

    def stand_on(self, vanilla: "Network") -> None:
        """Take the weights of a vanilla network, trained before, as the frozen base."""
        for own, theirs in zip(self._base(), vanilla._base(), strict=True):
            own.load_state_dict(theirs.state_dict())

    def adapted_parameters(self, definition: int | None = None) -> dict[str, nn.Parameter]:
        """What the inner loop shifts: the embedding (the meta block's output bias, or what is personal above a frozen
        base), the meta block, or both blocks; of all definitions, or of one.
        """
        if self.spec.adapted == "embedding":
            chosen = range(self.definitions) if definition is None else (definition,)
            names = [self.output_shift_of(definition) for definition in chosen]
            return {name: self.get_parameter(name) for name in names}
        blocks = ("meta_block",) if self.spec.adapted == "meta_block" else ("meta_block", "global_block")
        return {f"{block}.{n}": p for block in blocks for n, p in self.get_submodule(block).named_parameters()}

    @property
    def output_shift(self) -> str:
        """Name of the parameter whose shift is a shift of the embedding: the meta block's last bias, or `personal`."""
        return self.output_shift_of(0)

    def output_shift_of(self, definition: int) -> str:
        """`output_shift` of a definition's meta block."""
        name = f"layers.{len(self.spec.meta_hidden)}.bias" if self.spec.base == "joint" else "personal"
        return f"{self.block_name(definition)}.{name}"

    def block_name(self, definition: int) -> str:
        """Name of a definition's meta block."""
        return f"also_blocks.{definition - 1}" if definition else "meta_block"

    def block(self, definition: int) -> MetaBlock:
        """A definition's meta block."""
        return self.also_blocks[definition - 1] if definition else self.meta_block  # type: ignore[return-value]

    def shrinkage(self, definition: int = 0) -> Tensor:
        """κ of a definition's inner loss."""
        return self.log_shrinkage.reshape(-1)[definition].exp()

    def ridge(self, definition: int = 0) -> Tensor:
        """λ of the Newton steps of a definition's bias."""
        return self.log_ridge.reshape(-1)[definition].exp()

    def rate(self, name: str) -> Tensor:
        """The task learning rate α of an adapted parameter: per coordinate where learned, one number where fixed."""
        return self.log_rate[name.replace(".", "_")].exp()

    def encode(self, rows: Rows, definition: int = 0) -> tuple[Tensor, Tensor]:
        """Encoded meta [R, M] features of a definition, and other [R, O] features."""
        return self.encode_meta(rows, definition), self.encode_other(rows)

    def encode_meta(self, rows: Rows, definition: int = 0) -> Tensor:
        """[R, M] what a definition's meta block reads."""
        if definition == 0:
            return self.meta_encoder(rows.meta_numeric, rows.meta_category)
        numeric, category = (list(places) for places in self.spec.also_columns[definition - 1])
        return self.also_encoders[definition - 1](
            torch.cat([rows.meta_numeric, rows.other_numeric], 1)[:, numeric],
            torch.cat([rows.meta_category, rows.other_category], 1)[:, category],
        )

    def encode_other(self, rows: Rows) -> Tensor:
        """[R, O] what the global block reads beside embeddings."""
        return self.other_encoder(rows.other_numeric, rows.other_category)

    def unadapted(self, rows: Rows) -> list[Tensor]:
        """[R, W] un-adapted embeddings of every definition."""
        return [self.block(each)(self.encode_meta(rows, each)) for each in range(self.definitions)]

    def beside(self, embeddings: Sequence[Tensor]) -> Tensor:
        """The [R, W] embeddings of all definitions as the global block reads them: part by part, side by side."""
        if len(embeddings) == 1:
            return embeddings[0]
        split = [e_RW.split(self.spec.parts, 1) for e_RW in embeddings]
        return torch.cat([part for parts in zip(*split, strict=True) for part in parts], 1)

    def own(self, beside: Tensor, definition: int) -> Tensor:
        """A definition's [R, W] columns of what `beside` makes."""
        if self.definitions == 1:
            return beside
        parts = beside.split([width for width in self.spec.parts for _ in range(self.definitions)], 1)
        return torch.cat(parts[definition :: self.definitions], 1)

    def history(self, support: Rows, definition: int = 0) -> History | None:
        """What a definition's meta block may look back on, given rows of its tasks; an MLP looks at nothing."""
        return None if self.spec.meta_block == "mlp" else History(*self.encode(support, definition), support)

    def forward(self, rows: Rows, shifts: Shifts | None = None, support: Rows | None = None) -> Tensor:
        """[R] logits, un-adapted or with each task's `shifts`; a transformer looks back on `support`, where given."""
        x_RM, z_RO = self.encode(rows)
        history = None if support is None else self.history(support)
        embeddings = [self.meta_block(x_RM, below(shifts, "meta_block"), rows, history)]
        for each in range(1, self.definitions):
            embeddings.append(self._further(rows, each, below(shifts, self.block_name(each)), support))
        embedding_RW = self.beside(embeddings)
        of_global = below(shifts, "global_block")
        if not of_global:
            return self.global_block(z_RO, embedding_RW)
        return self.global_block(z_RO, embedding_RW, of_global, rows)

    def _further(self, rows: Rows, definition: int, shifts: Shifts, support: Rows | None) -> Tensor:
        """[R, W] embeddings of a further definition, made in the order of its tasks."""
        history = None if support is None else self.history(support.by(definition), definition)
        if not shifts and history is None:
            return self.block(definition)(self.encode_meta(rows, definition))
        ordered = rows.by(definition)
        embedding_RW = self.block(definition)(self.encode_meta(ordered, definition), shifts, ordered, history)
        return embedding_RW[torch.argsort(rows.order_by(definition))]
