"""The inner loop (Alg. 2a lines 5-9, Alg. 2b): a few gradient steps on each task's support set, all tasks at once.

One result, three ways to it:
- only the embedding's shift is adapted: the meta block runs once;
- the meta block's MLP is adapted: its gradients are written out, and weights shift by their factors;
- anything else, and a global block that is not piecewise linear: autograd, with a graph of its own gradients.
The first two meet the global block as logit and ∂logit/∂embedding (`limaml.learning.piecewise`), and one backward pass
gives their outer gradient, second order included.

Shapes are those of `limaml.learning.rows`; S rows of the longest task.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from limaml.learning.network import MetaBlock, Network
from limaml.learning.piecewise import Linearized, linearized_by_autograd
from limaml.learning.rows import Rows
from limaml.learning.shifts import LowRank, Shift, Shifts, below, times_weight, times_weight_transposed

MetaGradient = Literal["second_order", "first_order", "none"]
GlobalGradient = Literal["direct", "full"]


def task_weight(network: Network, rows: Rows, shrinkage: float | None = None) -> Tensor:
    """[T] what a sample weighs in its task's inner loss: 1 / samples, or 1 / (samples + κ) where shrunk.

    Eq. (1) of the paper prints the cross-entropy without its minus sign; this is the loss that is minimized.
    `shrinkage` is a κ to use instead of the network's own loss.
    """
    count_T = rows.count_T.to(rows.label_R.dtype)
    if shrinkage is not None:
        return 1 / (count_T + shrinkage)
    if network.spec.inner_loss == "shrunk":
        return 1 / (count_T + network.log_shrinkage.exp())
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
) -> Shifts:
    """Every task's shifts of the adapted parameters after `steps` SGD steps on its support rows.

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
    """
    if steps == 0 or len(support.label_R) == 0:
        return {}
    weight_T = task_weight(network, support, shrinkage)
    with torch.set_grad_enabled(meta_gradient != "none"):
        x_RM, z_RO = network.encode(support)
        if meta_gradient == "first_order":
            x_RM = x_RM.detach()
        loop = _Loop(network, support, x_RM, weight_T, steps, rate, meta_gradient)
        direct = global_gradient == "direct" and network.spec.adapted != "network"
        constant = direct or meta_gradient != "second_order"
        linearize = None if by_autograd else _linearized(network, z_RO, constant)
        if linearize is not None and network.spec.adapted == "embedding":
            return loop.shift_embedding(linearize)
        if linearize is not None and isinstance(network.meta_block, MetaBlock) and network.spec.adapted == "meta_block":
            return loop.shift_meta_block(linearize)
        return loop.by_autograd(z_RO, constant)


def _linearized(network: Network, z_RO: Tensor, constant: bool) -> Linearized | None:
    block = network.global_block
    if not getattr(block, "piecewise_linear", False):
        return None
    if hasattr(block, "linearized"):
        return block.linearized(z_RO, constant)
    return linearized_by_autograd(lambda e_RW: block(z_RO.detach(), e_RW)) if constant else None


@dataclass(frozen=True)
class _Loop:
    network: Network
    support: Rows
    x_RM: Tensor
    weight_T: Tensor
    steps: int
    fixed_rate: float | None
    meta_gradient: MetaGradient

    def rate(self, name: str) -> Tensor | float:
        return self.network.rate(name) if self.fixed_rate is None else self.fixed_rate

    def inner_gradient(self) -> torch.no_grad | nullcontext[None]:
        """Where inner gradients are computed: without a graph unless the outer gradient passes through them."""
        return nullcontext() if self.meta_gradient == "second_order" else torch.no_grad()

    def by_task(self, value: Tensor) -> Tensor:
        """A task's weight, shaped to multiply [T, …]."""
        return self.weight_T.view(-1, *[1] * (value.dim() - 1))

    def shift_embedding(self, linearize: Linearized) -> Shifts:
        support, name = self.support, self.network.output_shift
        step_TW = self.weight_T[:, None] * self.rate(name)
        with self.inner_gradient():
            base_RW = self.network.meta_block(self.x_RM)
        shift_TW = None
        for _ in range(self.steps):
            with self.inner_gradient():
                e_RW = base_RW if shift_TW is None else base_RW + support.of_row(shift_TW)
                logit_R, slope_RW = linearize(e_RW)
                gradient_TW = support.sum_by_task((torch.sigmoid(logit_R) - support.label_R)[:, None] * slope_RW)
            moved_TW = -step_TW * gradient_TW
            shift_TW = moved_TW if shift_TW is None else shift_TW + moved_TW
        assert shift_TW is not None
        return {name: shift_TW}

    def shift_meta_block(self, linearize: Linearized) -> Shifts:
        """Forward and backward pass of the block written out, so that the outer gradient needs no second one."""
        support = self.support
        block: MetaBlock = self.network.meta_block
        weights: list[Tensor] = [layer.weight for layer in block.layers]  # type: ignore[misc]
        first_RH = block.layers[0](self.x_RM)
        input_TSM = support.padded(self.x_RM)
        shifts: dict[str, Shift] = {}
        for _ in range(self.steps):
            with self.inner_gradient():
                inputs, a_RH = [input_TSM], first_RH
                for i, layer in enumerate(block.layers):
                    if i:
                        h_RH = F.relu(a_RH)
                        inputs.append(support.padded(h_RH))
                        a_RH = layer(h_RH)
                    a_RH = self._shifted(a_RH, inputs[i], shifts, i)
                logit_R, slope_RW = linearize(a_RH)
                delta_TSU = support.padded((torch.sigmoid(logit_R) - support.label_R)[:, None] * slope_RW)
                deltas = [delta_TSU]
                for i in range(len(weights) - 1, 0, -1):
                    back_TSI = delta_TSU @ weights[i]
                    if (shift := shifts.get(_weight(i))) is not None:
                        back_TSI = back_TSI + times_weight_transposed(delta_TSU, shift)
                    delta_TSU = back_TSI * (inputs[i] > 0)
                    deltas.insert(0, delta_TSU)
            for i, delta_TSU in enumerate(deltas):
                self._move(shifts, i, inputs[i], delta_TSU)
        return shifts

    def _shifted(self, a_RU: Tensor, input_TSI: Tensor, shifts: Shifts, i: int) -> Tensor:
        weight, bias = shifts.get(_weight(i)), shifts.get(_bias(i))
        if weight is not None:
            a_RU = a_RU + self.support.flat(times_weight(input_TSI, weight))
        return a_RU if bias is None else a_RU + self.support.of_row(bias)  # type: ignore[arg-type]

    def _move(self, shifts: dict[str, Shift], i: int, input_TSI: Tensor, delta_TSU: Tensor) -> None:
        """Take one step with layer i, given its inputs and its backward signal."""
        sum_TU = delta_TSU.sum(1)
        bias_TU = -self.rate(_bias(i)) * self.by_task(sum_TU) * sum_TU
        shifts[_bias(i)] = bias_TU + shifts.get(_bias(i), 0)  # type: ignore[operator]
        rate, before = self.rate(_weight(i)), shifts.get(_weight(i))
        inputs, units, rank = input_TSI.shape[2], delta_TSU.shape[2], input_TSI.shape[1]
        # The first layer's inputs are the same at every step; those of others would add to the rank with each.
        thin = rank * (inputs + units) <= 2 * inputs * units and (i == 0 or self.steps == 1)
        if thin and (not isinstance(rate, Tensor) or rate.dim() == 0):
            factor_TSU = rate * self.by_task(delta_TSU) * delta_TSU
            if isinstance(before, LowRank):
                factor_TSU = factor_TSU + before.delta_TSU
            shifts[_weight(i)] = LowRank(input_TSI, factor_TSU)
            return
        gradient_TUI = torch.bmm(delta_TSU.mT, input_TSI)
        moved_TUI = -rate * self.by_task(gradient_TUI) * gradient_TUI
        shifts[_weight(i)] = moved_TUI if before is None else moved_TUI + before  # type: ignore[operator]

    def by_autograd(self, z_RO: Tensor, constant: bool) -> Shifts:
        network, support, second = self.network, self.support, self.meta_gradient == "second_order"
        parameters = network.adapted_parameters()
        shifts = {name: p.new_zeros(support.tasks, *p.shape) for name, p in parameters.items()}
        block = network.global_block
        held = {name: p.detach() if constant else p for name, p in block.named_parameters()}
        if constant:
            z_RO = z_RO.detach()
        for _ in range(self.steps):
            with torch.enable_grad():
                point = {n: s if second and s.requires_grad else s.detach().requires_grad_() for n, s in shifts.items()}
                embedding_RW = network.meta_block(self.x_RM, below(point, "meta_block"), support)
                of_global = below(point, "global_block")
                arguments = (z_RO, embedding_RW, of_global, support) if of_global else (z_RO, embedding_RW)
                logit_R = functional_call(block, held, arguments)
                loss_R = F.binary_cross_entropy_with_logits(logit_R, support.label_R, reduction="none")
                loss = (support.sum_by_task(loss_R) * self.weight_T).sum()
                gradients = torch.autograd.grad(loss, list(point.values()), create_graph=second)
            moved = {n: -self.rate(n) * g for n, g in zip(point, gradients, strict=True)}
            shifts = {name: (point if second else shifts)[name] + moved[name] for name in point}
        return dict(shifts)


def _weight(i: int) -> str:
    return f"meta_block.layers.{i}.weight"


def _bias(i: int) -> str:
    return f"meta_block.layers.{i}.bias"


def embed(network: Network, support: Rows, steps: int, pooling: str = "latest") -> Tensor:
    """[T, W] meta embeddings (Alg. 2b): adapt on the support rows, then run them through the adapted meta block.

    `latest` keeps the most recent row's output; `mean` and `max` pool over the rows; `cosine` averages them weighted by
    their cosine similarity to the latest (negative similarities count as 0). Every task needs at least one row.
    """
    shifts = below(adapt(network, support, steps), "meta_block")
    assert bool((support.count_T > 0).all()), "a task without samples has no embedding of its own"
    with torch.no_grad():
        if pooling == "latest":
            newest = support.newest()
            return network.meta_block(network.meta_encoder(newest.meta_numeric, newest.meta_category), shifts, newest)
        embedding_RW = network.meta_block(network.encode(support)[0], shifts, support)
        latest_TW = embedding_RW[support.count_T.cumsum(0) - 1]
        if pooling == "max":
            index = support.task_R[:, None].expand_as(embedding_RW)
            return torch.full_like(latest_TW, -torch.inf).scatter_reduce(0, index, embedding_RW, "amax")
        weight_R = torch.ones_like(support.label_R)
        if pooling == "cosine":
            weight_R = F.cosine_similarity(embedding_RW, support.of_row(latest_TW)).clamp(min=0)
        return support.sum_by_task(weight_R[:, None] * embedding_RW) / support.sum_by_task(weight_R)[:, None]


def served_logit(network: Network, support: Rows, query: Rows, steps: int, pooling: str = "latest") -> Tensor:
    """[R] logits of query rows as they would be served: the global block on each task's stored embedding.

    A task without support rows has none, and gets the un-adapted meta block on the query row's own meta features. A
    network whose every weight is adapted has no embedding to store: its query rows meet the adapted network itself.
    """
    if network.spec.adapted == "network":
        shifts = adapt(network, support, steps)
        with torch.no_grad():
            return network(query, shifts)
    has_T = support.count_T > 0
    number_T = has_T.cumsum(0) - 1
    kept = replace(support, task_R=number_T[support.task_R], tasks=int(has_T.sum()))
    with torch.no_grad():
        x_RM, z_RO = network.encode(query)
        embedding_RW = network.meta_block(x_RM)
        if kept.tasks:
            stored_TW = embed(network, kept, steps, pooling)
            row_R = has_T[query.task_R]
            embedding_RW[row_R] = stored_TW[number_T[query.task_R[row_R]]]
        return network.global_block(z_RO, embedding_RW)
