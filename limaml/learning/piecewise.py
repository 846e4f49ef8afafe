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
from typing import Any

import torch
from torch import Tensor

# e_RW → logit [R], ∂logit/∂e [R, W]
Linearized = Callable[[Tensor], tuple[Tensor, Tensor]]


class LogitAndGradient(torch.autograd.Function):
    """(first_RH, e_RD, v_RD, the first layer's columns for e and e·v, drops, further layers) → logit [R], J [R, D].

    first_RH: what the first layer makes of everything but the embedding, its bias included; v_RD: the item vector that
    multiplies the embedding; drops: for each hidden layer a scaled dropout mask [R, H], or none at all; layers: weight
    and bias of every layer after the first, in turn. The last layer has one output.
    """

    @staticmethod
    def forward(
        ctx: Any,
        first_RH: Tensor,
        e_RD: Tensor,
        v_RD: Tensor | None,
        weight_e: Tensor,
        weight_v: Tensor | None,
        drops: Sequence[Tensor],
        *layers: Tensor,
    ) -> tuple[Tensor, Tensor]:
        weights, biases = layers[::2], layers[1::2]
        a = torch.addmm(first_RH, e_RD, weight_e.t())
        if v_RD is not None and weight_v is not None:
            a.addmm_(e_RD * v_RD, weight_v.t())
        hidden: list[Tensor] = []
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = a.relu_()
            if drops:
                h.mul_(drops[i])
            hidden.append(h)
            a = torch.addmv(bias, h, weight[0])[:, None] if len(weight) == 1 else torch.addmm(bias, h, weight.t())
        logit_R = a.squeeze(1)

        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[3] or any(ctx.needs_input_grad[6:])
        delta = torch.ones_like(a)
        deltas = [delta]
        for i in range(len(weights) - 1, -1, -1):
            back = weights[i].expand(len(a), -1) if len(weights[i]) == 1 else delta @ weights[i]
            delta = torch.ops.aten.threshold_backward(back, hidden[i], 0)
            if drops:
                delta.mul_(drops[i])
            deltas.insert(0, delta)
        gradient_RD = delta @ weight_e
        if v_RD is not None:
            assert weight_v is not None
            logit_R = logit_R + (e_RD * v_RD).sum(1)
            through_RD = (delta @ weight_v).add_(1)
            gradient_RD.addcmul_(through_RD, v_RD)
        ctx.drops = drops
        if keep:
            ctx.save_for_backward(gradient_RD, e_RD, v_RD, weight_e, weight_v, *weights, *hidden, *deltas)
            ctx.depth = len(weights)
        else:
            ctx.save_for_backward(gradient_RD)
            ctx.mark_non_differentiable(gradient_RD)
            ctx.depth = None
        return logit_R, gradient_RD

    @staticmethod
    def backward(ctx: Any, a_R: Tensor, u_RD: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of Σ a·logit + Σ u·J."""
        if ctx.depth is None:
            (gradient_RD,) = ctx.saved_tensors
            return None, a_R[:, None] * gradient_RD, *[None] * (len(ctx.needs_input_grad) - 2)
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
            tangent = torch.ops.aten.threshold_backward(tangent, hidden[i], 0)
            if drops:
                tangent.mul_(drops[i])
            mixed = torch.addcmul(tangent, hidden[i], a_R1)
            if i == depth - 1:
                grads += [mixed.sum(0, keepdim=True), a_R.sum()[None]]
                break
            grads += [deltas[i + 1].t() @ mixed, a_R @ deltas[i + 1]]
            tangent = tangent @ weights[i].t()
        return (
            deltas[0] * a_R1,
            gradient_RD * a_R1,
            grad_v,
            deltas[0].t() @ mixed_RD,
            grad_weight_v,
            None,
            *grads,
        )


def linearized_by_autograd(module: Callable[[Tensor], Tensor]) -> Linearized:
    """Logit and J of any piecewise-linear module by one backward pass through it; θ_global stays constant."""

    def linearize(e_RW: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            point_RW = e_RW.detach().requires_grad_()
            logit_R = module(point_RW)
            (gradient_RW,) = torch.autograd.grad(logit_R.sum(), point_RW)
        return logit_R.detach() + (gradient_RW * (e_RW - point_RW.detach())).sum(1), gradient_RW

    return linearize
