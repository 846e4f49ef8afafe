"""The inner loop (Alg. 2a lines 5-9, Alg. 2b): a few gradient steps on each task's support set, all tasks at once.

One result, three ways to it:
- only the embedding's shift is adapted: the meta block runs once;
- the meta block's MLP is adapted: its gradients are written out, and weights shift by their factors;
- anything else, and a global block that is not piecewise linear: autograd, with a graph of its own gradients.
The first two meet the global block as logit and ∂logit/∂embedding (`limaml.learning.piecewise`), and one backward pass
gives their outer gradient, second order included.

Shapes are those of `limaml.learning.rows`; S rows of the longest task.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from limaml.learning import products
from limaml.learning.blocks import MetaBlock
from limaml.learning.network import Network
from limaml.learning.piecewise import Linearized, linearized_by_autograd
from limaml.learning.rows import Rows
from limaml.learning.shifts import LowRank, Shift, Shifts, below

MetaGradient = Literal["second_order", "first_order", "none"]
GlobalGradient = Literal["direct", "full"]


def task_weight(network: Network, rows: Rows, shrinkage: float | None = None, definition: int = 0) -> Tensor:
    """[T] what a sample weighs in its task's inner loss: 1 / samples, or 1 / (samples + κ) where shrunk.

    Eq. (1) of the paper prints the cross-entropy without its minus sign; this is the loss that is minimized.
    `shrinkage` is a κ to use instead of the network's own loss.
    """
    count_T = rows.count_T.to(rows.label_R.dtype)
    if shrinkage is not None:
        return 1 / (count_T + shrinkage)
    if network.spec.inner_loss == "shrunk":
        return 1 / (count_T + network.shrinkage(definition))
    return 1 / count_T.clamp(min=1)


def adapt(
    network: Network,
    support: Rows,
    steps: int,
    meta_gradient: MetaGradient = "none",
    global_gradient: GlobalGradient = "full",
    rate: float | None = None,
    shrinkage: float | None = None,
    by_autograd: bool = False,
    definition: int | None = None,
) -> Shifts:
    """Every task's shifts of the adapted parameters after `steps` SGD steps on its support rows.

    Of several task definitions each is adapted by itself, on its own tasks and beside the un-adapted embeddings of the
    others: so can its embeddings be generated without knowing theirs.

    Args:
        network: the shared parameters to start from.
        support: support rows; a task without any stays un-shifted.
        steps: n in training, k in generation; 0 changes nothing.
        meta_gradient: what an outer gradient sees of the steps: all of them, only their sizes (`first_order`: the
            inner gradients are constants), or nothing (generation).
        global_gradient: `direct` takes θ_global as a constant inside the loop (Alg. 2a, line 13 read literally); where
            θ_global is adapted itself, it never is one.
        rate, shrinkage: α and κ to use instead of the network's own (to fine-tune a vanilla network, which has none).
        by_autograd: take the general way even where a faster one leads to the same result.
        definition: adapt this definition alone, whose tasks `support` is made of; without it, all of them.
    """
    if definition is None and network.definitions > 1:
        options = (steps, meta_gradient, global_gradient, rate, shrinkage, by_autograd)
        each = [adapt(network, support.by(number), *options, number) for number in range(network.definitions)]
        return {name: shift for shifts in each for name, shift in shifts.items()}
    if steps == 0 or len(support.label_R) == 0:
        return {}
    own = definition or 0
    weight_T = task_weight(network, support, shrinkage, own)
    with torch.set_grad_enabled(meta_gradient != "none"):
        x_RM, z_RO = network.encode(support, own)
        others = _others(network, support, own)
        if meta_gradient == "first_order":
            x_RM, others = x_RM.detach(), [e_RW.detach() for e_RW in others]
        loop = _Loop(network, own, support, x_RM, others, weight_T, steps, rate, meta_gradient)
        direct = global_gradient == "direct" and network.spec.adapted != "network"
        constant = direct or meta_gradient != "second_order"
        linearize = None if by_autograd else _linearized(network, z_RO, constant, steps)
        if linearize is not None and network.spec.adapted == "embedding":
            return loop.shift_embedding(loop.of_own(linearize))
        if linearize is not None and type(network.meta_block) is MetaBlock and network.spec.adapted == "meta_block":
            return loop.shift_meta_block(linearize)
        return loop.by_autograd(z_RO, constant)


def _others(network: Network, rows: Rows, own: int) -> list[Tensor]:
    """The other definitions' un-adapted embeddings, in their order."""
    numbers = [number for number in range(network.definitions) if number != own]
    return [network.block(number)(network.encode_meta(rows, number)) for number in numbers]


def _linearized(network: Network, z_RO: Tensor, constant: bool, steps: int) -> Linearized | None:
    block = network.global_block
    if not getattr(block, "piecewise_linear", False):
        return None
    if hasattr(block, "linearized"):
        return block.linearized(z_RO, constant, steps)
    return linearized_by_autograd(lambda e_RW: block(z_RO.detach(), e_RW)) if constant else None


@dataclass(frozen=True)
class _Loop:
    network: Network
    own: int
    support: Rows
    x_RM: Tensor
    others: list[Tensor]
    weight_T: Tensor
    steps: int
    fixed_rate: float | None
    meta_gradient: MetaGradient

    def rate(self, name: str) -> Tensor | float:
        return self.network.rate(name) if self.fixed_rate is None else self.fixed_rate

    def inner_gradient(self) -> torch.no_grad | nullcontext[None]:
        """Where inner gradients are computed: without a graph unless the outer gradient passes through them."""
        return nullcontext() if self.meta_gradient == "second_order" else torch.no_grad()

    def beside_others(self, embedding_RW: Tensor) -> Tensor:
        """What the global block reads: the adapted definition's embedding beside the others' un-adapted ones."""
        return self.network.beside([*self.others[: self.own], embedding_RW, *self.others[self.own :]])

    def of_own(self, linearize: Linearized) -> Linearized:
        """Logit and gradient as functions of the adapted definition's embedding alone."""
        if not self.others:
            return linearize

        def of_own(embedding_RW: Tensor) -> tuple[Tensor, Tensor]:
            logit_R, slope_RW = linearize(self.beside_others(embedding_RW))
            return logit_R, self.network.own(slope_RW, self.own)

        return of_own

    def shift_embedding(self, linearize: Linearized) -> Shifts:
        support, name = self.support, self.network.output_shift_of(self.own)
        rate = self.rate(name)
        step_TW = self.weight_T[:, None] * rate
        newton = self.network.spec.newton_bias and self.fixed_rate is None
        with self.inner_gradient():
            base_RW = self.network.block(self.own)(self.x_RM)
        # Above a frozen base only the last coordinates move.
        still = base_RW.shape[1] - self.network.get_parameter(name).numel()
        shift_TW = None
        for _ in range(self.steps):
            with self.inner_gradient():
                e_RW = base_RW if shift_TW is None else base_RW + F.pad(support.of_row(shift_TW), (still, 0))
                logit_R, slope_RW = linearize(e_RW)
                slope_RW = slope_RW[:, still:]
                p_R = torch.sigmoid(logit_R)
                gradient_RW = (p_R - support.label_R)[:, None] * slope_RW
                if newton:
                    curvature_R = p_R * (1 - p_R) * slope_RW[:, -1] ** 2
                    gradient_RW = torch.cat([gradient_RW, curvature_R[:, None]], 1)
                gradient_TW = support.sum_by_task(gradient_RW)
            if newton:
                bias_T = gradient_TW.new_zeros(len(gradient_TW)) if shift_TW is None else shift_TW[:, -1]
                moved_TW = self._with_newton_bias(gradient_TW[:, :-1], gradient_TW[:, -1], bias_T, rate)
            else:
                moved_TW = -step_TW * gradient_TW
            shift_TW = moved_TW if shift_TW is None else shift_TW + moved_TW
        assert shift_TW is not None
        return {name: shift_TW}

    def _with_newton_bias(
        self, gradient_TW: Tensor, curvature_T: Tensor, bias_T: Tensor, rate: Tensor | float
    ) -> Tensor:
        """[T, W] a step: the last coordinate by Newton's method with a ridge λ, all others along the gradient.

        A member's base rate is the one thing a handful of samples can tell, and this is the best guess at it: a
        logistic regression on nothing but an intercept, with the network's logit as offset.
        """
        ridge = self.network.ridge(self.own)
        step_TW = -self.weight_T[:, None] * rate * gradient_TW
        newton_T = -(gradient_TW[:, -1] + ridge * bias_T) / (curvature_T + ridge)
        if isinstance(rate, Tensor) and rate.dim():
            newton_T = newton_T * rate[-1]
        return torch.cat([step_TW[:, :-1], newton_T[:, None]], 1)

    def shift_meta_block(self, linearize: Linearized) -> Shifts:
        """Forward and backward pass of the block written out, so that the outer gradient needs no second one."""
        support, layers = self.support, _Layer.of(self)
        scale_R = support.of_row(self.weight_T)
        if (rate := self.one_rate()) is not None:
            scale_R = scale_R * rate
        for _ in range(self.steps):
            with self.inner_gradient():
                inputs_RI, a_RU = [self.x_RM], layers[0].forward(self.x_RM)
                for layer in layers[1:]:
                    inputs_RI.append(F.relu(a_RU))
                    a_RU = layer.forward(inputs_RI[-1])
                logit_R, slope_RW = linearize(a_RU)
                residual_R = (torch.sigmoid(logit_R) - support.label_R) * scale_R
                deltas_RU = [residual_R[:, None] * slope_RW]
                for layer, input_RI in zip(layers[:0:-1], inputs_RI[:0:-1], strict=True):
                    back_RI = layer.backward(deltas_RU[0])
                    deltas_RU.insert(0, torch.ops.aten.threshold_backward(back_RI, input_RI, 0))
            for layer, input_RI, delta_RU in zip(layers, inputs_RI, deltas_RU, strict=True):
                layer.step(input_RI, delta_RU)
        return {name: shift for layer in layers for name, shift in layer.shifts()}

    def one_rate(self) -> Tensor | float | None:
        """α, where all adapted parameters share one."""
        if self.fixed_rate is not None:
            return self.fixed_rate
        return None if self.network.spec.learned_task_learning_rate else self.rate(self.network.output_shift)

    def by_autograd(self, z_RO: Tensor, constant: bool) -> Shifts:
        network, support, second = self.network, self.support, self.meta_gradient == "second_order"
        parameters, meta_block = network.adapted_parameters(self.own), network.block_name(self.own)
        shifts = {name: p.new_zeros(support.tasks, *p.shape) for name, p in parameters.items()}
        block = network.global_block
        held = {name: p.detach() if constant else p for name, p in block.named_parameters()}
        if constant:
            z_RO = z_RO.detach()
        newton = network.spec.newton_bias and self.fixed_rate is None
        # What a transformer reads in the samples is added to a shift, not corrected by it.
        history = None if network.spec.adapted == "embedding" else network.history(support, self.own)
        for _ in range(self.steps):
            with torch.enable_grad():
                point = {n: s if second and s.requires_grad else s.detach().requires_grad_() for n, s in shifts.items()}
                embedding_RW = network.block(self.own)(self.x_RM, below(point, meta_block), support, history)
                of_global = below(point, "global_block")
                read_RW = self.beside_others(embedding_RW)
                arguments = (z_RO, read_RW, of_global, support) if of_global else (z_RO, read_RW)
                logit_R = functional_call(block, held, arguments)
                loss_R = F.binary_cross_entropy_with_logits(logit_R, support.label_R, reduction="none")
                loss = (support.sum_by_task(loss_R) * self.weight_T).sum()
                gradients = torch.autograd.grad(
                    loss, list(point.values()), create_graph=second, retain_graph=second or newton
                )
                if newton:
                    (slope_RW,) = torch.autograd.grad(logit_R.sum(), embedding_RW, create_graph=second)
                    p_R = torch.sigmoid(logit_R)
                    curvature_T = support.sum_by_task(p_R * (1 - p_R) * slope_RW[:, -1] ** 2)
            moved = {n: -self.rate(n) * g for n, g in zip(point, gradients, strict=True)}
            if newton:
                (name, gradient_TW), rate = (
                    (*point, gradients[0] / self.weight_T[:, None]),
                    self.rate(network.output_shift_of(self.own)),
                )
                moved = {name: self._with_newton_bias(gradient_TW, curvature_T, shifts[name][:, -1], rate)}
            shifts = {name: (point if second else shifts)[name] + moved[name] for name in point}
        return dict(shifts)


class _Layer:
    """A layer of the meta block on its way through the inner loop: shared parameters and every task's shift of them.

    The first layer's inputs are the same at every step, so its shift stays a sum of outer products of one rank, known
    on the support rows by their inner products alone; so does any layer's after a single step. Others are [T, U, I].
    """

    def __init__(self, loop: _Loop, index: int, layer: nn.Linear) -> None:
        self.name = f"meta_block.layers.{index}"
        self.shared = layer
        self.rows = loop.support
        rank, inputs, units = loop.support.longest, layer.in_features, layer.out_features
        same_input = index == 0 or loop.steps == 1
        one_rate = loop.one_rate() is not None
        self.thin = one_rate and same_input and rank * (inputs + units) <= 2 * inputs * units
        self.rates = None if one_rate else (loop.rate(f"{self.name}.weight"), loop.rate(f"{self.name}.bias"))
        self.input_TSI: Tensor | None = None
        self.factor_TSU: Tensor | None = None
        self.weight_TUI: Tensor | None = None
        self.bias_TU: Tensor | None = None
        self.own_TUI: Tensor | None = None
        self.first_RU: Tensor | None = None
        self.first_TSU: Tensor | None = None
        self.products_TSS: Tensor | None = None

    @classmethod
    def of(cls, loop: _Loop) -> list["_Layer"]:
        return [cls(loop, index, layer) for index, layer in enumerate(loop.network.meta_block.layers)]  # type: ignore[arg-type]

    def forward(self, input_RI: Tensor) -> Tensor:
        if self.factor_TSU is not None and self.input_TSI is not None and self.first_RU is not None:
            if self.products_TSS is None:
                # One more product of ones with ones: the bias's shift.
                self.products_TSS = torch.bmm(self.input_TSI, self.input_TSI.mT) + 1
                self.first_TSU = self.rows.padded(self.first_RU)
            assert self.first_TSU is not None
            return self.rows.flat(torch.baddbmm(self.first_TSU, self.products_TSS, self.factor_TSU, alpha=-1))
        if self.weight_TUI is None or self.bias_TU is None:
            first_RU = products.linear(input_RI, self.shared.weight, self.shared.bias)
            self.first_RU = first_RU
            return first_RU
        bias_T1U = (self.shared.bias + self.bias_TU)[:, None]
        self.own_TUI = self.shared.weight + self.weight_TUI
        return self.rows.flat(torch.baddbmm(bias_T1U, self.rows.padded(input_RI), self.own_TUI.mT))

    def backward(self, delta_RU: Tensor) -> Tensor:
        if self.own_TUI is None:
            return delta_RU @ self.shared.weight
        return self.rows.flat(torch.bmm(self.rows.padded(delta_RU), self.own_TUI))

    def step(self, input_RI: Tensor, delta_RU: Tensor) -> None:
        delta_TSU = self.rows.padded(delta_RU)
        if self.thin:
            if self.input_TSI is None:
                self.input_TSI = self.rows.padded(input_RI)
            self.factor_TSU = delta_TSU if self.factor_TSU is None else self.factor_TSU + delta_TSU
            return
        down_TSU = -delta_TSU
        weight_TUI, bias_TU = torch.bmm(down_TSU.mT, self.rows.padded(input_RI)), down_TSU.sum(1)
        if self.rates is not None:
            weight_TUI, bias_TU = weight_TUI * self.rates[0], bias_TU * self.rates[1]
        self.weight_TUI = weight_TUI if self.weight_TUI is None else self.weight_TUI + weight_TUI
        self.bias_TU = bias_TU if self.bias_TU is None else self.bias_TU + bias_TU

    def shifts(self) -> list[tuple[str, Shift]]:
        weight, bias = f"{self.name}.weight", f"{self.name}.bias"
        if self.input_TSI is not None and self.factor_TSU is not None:
            return [(weight, LowRank(self.input_TSI, self.factor_TSU)), (bias, -self.factor_TSU.sum(1))]
        assert self.weight_TUI is not None
        assert self.bias_TU is not None
        return [(weight, self.weight_TUI), (bias, self.bias_TU)]


def embed(network: Network, support: Rows, steps: int, pooling: str = "latest", definition: int = 0) -> Tensor:
    """[T, W] meta embeddings (Alg. 2b): adapt on the support rows, then run them through the adapted meta block.

    `support` is made of tasks of the n-th definition, whose embeddings these are.
    `latest` keeps the most recent row's output; `mean` and `max` pool over the rows; `cosine` averages them weighted by
    their cosine similarity to the latest (negative similarities count as 0). Every task needs at least one row.
    """
    shifts = below(adapt(network, support, steps, definition=definition), network.block_name(definition))
    block = network.block(definition)
    assert bool((support.count_T > 0).all()), "a task without samples has no embedding of its own"
    with torch.no_grad():
        if pooling == "latest":
            newest = support.newest()
            return block(network.encode_meta(newest, definition), shifts, newest, network.history(support, definition))
        # Rows of their own, so that a transformer lets each of them look back on all samples.
        x_RM = network.encode_meta(support, definition)
        embedding_RW = block(x_RM, shifts, replace(support), network.history(support, definition))
        latest_TW = embedding_RW[support.count_T.cumsum(0) - 1]
        if pooling == "max":
            index = support.task_R[:, None].expand_as(embedding_RW)
            return torch.full_like(latest_TW, -torch.inf).scatter_reduce(0, index, embedding_RW, "amax")
        weight_R = torch.ones_like(support.label_R)
        if pooling == "cosine":
            weight_R = F.cosine_similarity(embedding_RW, support.of_row(latest_TW)).clamp(min=0)
        return support.sum_by_task(weight_R[:, None] * embedding_RW) / support.sum_by_task(weight_R)[:, None]


def served_logit(
    network: Network,
    support: Rows,
    query: Rows,
    steps: int,
    pooling: str = "latest",
    stored: Sequence[tuple[Tensor, Tensor]] = (),
) -> Tensor:
    """[R] logits of query rows as they would be served: the global block on each task's stored embedding.

    Of the definitions after the first, a batch need not hold whole tasks: `stored` gives, for each of them, the place
    [R] of a query row's embedding in [N, W], or −1 where its task has none.

    A task without support rows has none, and gets the un-adapted meta block on the query row's own meta features. A
    network whose every weight is adapted has no embedding to store: its query rows meet the adapted network itself.
    """
    if network.spec.adapted == "network":
        shifts = adapt(network, support, steps)
        with torch.no_grad():
            return network(query, shifts, support)
    has_T = support.count_T > 0
    number_T = has_T.cumsum(0) - 1
    kept = replace(support, task_R=number_T[support.task_R], tasks=int(has_T.sum()))
    with torch.no_grad():
        z_RO, embeddings = network.encode_other(query), network.unadapted(query)
        if kept.tasks:
            own_TW = embed(network, kept, steps, pooling)
            row_R = has_T[query.task_R]
            embeddings[0][row_R] = own_TW[number_T[query.task_R[row_R]]]
        for embedding_RW, (place_R, stored_NW) in zip(embeddings[1:], stored, strict=True):
            embedding_RW[place_R >= 0] = stored_NW[place_R[place_R >= 0]]
        return network.global_block(z_RO, network.beside(embeddings))
