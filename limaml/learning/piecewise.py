"""A ReLU network's logit and its gradient in the embedding, as one operation with a backward pass of its own.

Where every activation is piecewise linear, the logit is linear in the embedding as long as no unit switches, so the
inner loop needs two things of the global block: the logit and J = ∂logit/∂embedding. J is constant in the embedding
almost everywhere, hence the Hessian of a sample's loss is p(1 − p)·J·Jᵀ, and a second-order outer gradient never
re-enters the global block. For θ_global, J depends on the weights linearly through the same masks as the logit: for an
outer gradient (a, u) of (logit, J) the gradient of a layer's weights is Σ δ·(a·h + t)ᵀ, with δ the logit's own backward
signal and t the tangent of the layer's input in direction u. That is one more masked forward pass, not a second
backward one.

Shapes are those of `limaml.learning.rows`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limaml.learning.products import piece_products

# e_RW → logit [R], ∂logit/∂e [R, W]
Linearized = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PiecewiseLinear:
    """A ReLU MLP with one output, as seen from the embedding.

    Attributes:
        weight_e: [H, D] the first layer's columns for the embedding.
        weight_v: [H, D] those for its product with the item vector, or None where there is none.
        layers: weight and bias of every layer after the first, in turn.
    """

    weight_e: Tensor
    weight_v: Tensor | None
    layers: Sequence[Tensor]

    def logit_and_gradient(
        self,
        first_RH: Tensor,
        e_RD: Tensor,
        v_RD: Tensor | None,
        drops: Sequence[Tensor] = (),
        overwrite: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Logit [R] and ∂logit/∂e [R, D], differentiable in every argument and every weight.

        Args:
            first_RH: what the first layer makes of everything but the embedding, its bias included.
            e_RD: embeddings.
            v_RD: item vectors, which multiply the embedding; their dot product with it is added to the logit.
            drops: a scaled dropout mask [R, H] for each hidden layer, or none at all.
            overwrite: `first_RH` is nobody else's, and may be written over.
        """
        arguments = first_RH, e_RD, v_RD, self.weight_e, self.weight_v, drops, overwrite, *self.layers
        return _LogitAndGradient.apply(*arguments)

    def constant(
        self, a_RH: Tensor, e_RD: Tensor, v_RD: Tensor | None, drops: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """The same with nothing to differentiate, from the first layer before its activation, which is written over."""
        return self._run(a_RH, e_RD, v_RD, drops)[:2]

    def with_embedding(self, first_RH: Tensor, e_RD: Tensor, v_RD: Tensor | None) -> Tensor:
        """[R, H] the first layer before its activation: the embedding's share added to `first_RH` in its place."""
        first_RH.addmm_(e_RD, self.weight_e.t())
        if v_RD is not None and self.weight_v is not None:
            first_RH.addmm_(e_RD * v_RD, self.weight_v.t())
        return first_RH

    def _run(
        self, a: Tensor, e_RD: Tensor, v_RD: Tensor | None, drops: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """Logit, ∂logit/∂e, hidden layers' outputs and every layer's backward signal; overwrites `a`."""
        weights, biases = self.layers[::2], self.layers[1::2]
        hidden: list[Tensor] = []
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = a.relu_()
            if drops:
                h.mul_(drops[i])
            hidden.append(h)
            a = F.linear(h, weight, bias)
        logit_R = a.squeeze(1)
        # Of the output, the backward signal is 1: nothing to multiply by.
        delta, deltas = a.new_ones(()).expand_as(a), []
        for i in range(len(weights) - 1, -1, -1):
            if i + 1 == len(weights):
                delta = torch.ops.aten.threshold_backward(weights[i].expand(len(a), -1), hidden[i], 0)
            else:
                delta = _of_active(delta @ weights[i], hidden[i])
            if drops:
                delta.mul_(drops[i])
            deltas.insert(0, delta)
        deltas = deltas or [delta]
        gradient_RD = delta @ self.weight_e
        if v_RD is not None and self.weight_v is not None:
            logit_R = logit_R + (e_RD * v_RD).sum(1)
            gradient_RD.addcmul_((delta @ self.weight_v).add_(1), v_RD)
        return logit_R, gradient_RD, hidden, deltas


class _LogitAndGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        first_RH: Tensor,
        e_RD: Tensor,
        v_RD: Tensor | None,
        weight_e: Tensor,
        weight_v: Tensor | None,
        drops: Sequence[Tensor],
        overwrite: bool,
        *layers: Tensor,
    ) -> tuple[Tensor, Tensor]:
        network = PiecewiseLinear(weight_e, weight_v, layers)
        with piece_products(first_RH):
            a = network.with_embedding(first_RH if overwrite else first_RH.clone(), e_RD, v_RD)
            logit_R, gradient_RD, hidden, deltas = network._run(a, e_RD, v_RD, drops)
        ctx.drops, ctx.depth = drops, len(hidden)
        ctx.save_for_backward(gradient_RD, e_RD, v_RD, weight_e, weight_v, *layers[::2], *hidden, *deltas)
        return logit_R, gradient_RD

    @staticmethod
    def backward(ctx: Any, a_R: Tensor, u_RD: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of Σ a·logit + Σ u·J."""
        with piece_products(a_R):
            return _LogitAndGradient._gradients(ctx, a_R, u_RD)

    @staticmethod
    def _gradients(ctx: Any, a_R: Tensor, u_RD: Tensor) -> tuple[Tensor | None, ...]:
        gradient_RD, e_RD, v_RD, weight_e, weight_v, *rest = ctx.saved_tensors
        depth, drops = ctx.depth, ctx.drops
        weights, hidden, deltas = rest[:depth], rest[depth : 2 * depth], rest[2 * depth :]
        a_R1 = a_R[:, None]
        mixed_RD = torch.addcmul(u_RD, e_RD, a_R1)
        tangent = u_RD @ weight_e.t()
        grad_v = grad_weight_v = None
        if v_RD is not None:
            tangent.addmm_(u_RD * v_RD, weight_v.t())
            grad_v = mixed_RD * (deltas[0] @ weight_v).add_(1)
            grad_weight_v = deltas[0].t() @ (mixed_RD * v_RD)
        grads: list[Tensor | None] = []
        for i in range(depth):
            tangent = _of_active(tangent, hidden[i])
            if drops:
                tangent.mul_(drops[i])
            mixed = torch.addcmul(tangent, hidden[i], a_R1)
            if i == depth - 1:
                grads += [mixed.sum(0, keepdim=True), a_R.sum()[None]]
                break
            grads += [deltas[i + 1].t() @ mixed, a_R @ deltas[i + 1]]
            tangent = tangent @ weights[i].t()
        grad_weight_e = deltas[0].t() @ mixed_RD
        return (deltas[0] * a_R1, gradient_RD * a_R1, grad_v, grad_weight_e, grad_weight_v, None, None, *grads)


def _of_active(signal_RH: Tensor, hidden_RH: Tensor) -> Tensor:
    """The signal where a unit is active, 0 elsewhere; written over, since a new tensor costs more than the product."""
    return torch.ops.aten.threshold_backward.grad_input(signal_RH, hidden_RH, 0, grad_input=signal_RH)


def along(logit_R: Tensor, gradient_RW: Tensor, e_RW: Tensor) -> Tensor:
    """[R] a constant logit as a function of the embedding: the tangent plane, which is the network itself here."""
    return logit_R + (gradient_RW * (e_RW - e_RW.detach())).sum(1) if e_RW.requires_grad else logit_R


def linearized_by_autograd(module: Callable[[Tensor], Tensor]) -> Linearized:
    """Logit and J of any piecewise-linear module by one backward pass through it; θ_global stays constant."""

    def linearize(e_RW: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            point_RW = e_RW.detach().requires_grad_()
            logit_R = module(point_RW)
            (gradient_RW,) = torch.autograd.grad(logit_R.sum(), point_RW)
        return along(logit_R.detach(), gradient_RW, e_RW), gradient_RW

    return linearize
