"""The peers: the same mathematics in plain PyTorch, task after task with `higher` or without it, and under `vmap`."""

import higher
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from limaml.learning.blocks import GlobalBlock
from limaml.learning.network import Network
from limaml.learning.rows import Rows


def split(rows: Rows) -> list[Rows]:
    """Each task's rows on their own."""
    return [rows.where(rows.task_R == task) for task in range(rows.tasks)]


def adapt_one(network: Network, support: Rows, steps: int, second_order: bool, direct: bool) -> dict[str, Tensor]:
    """The adapted parameters of one task after its inner steps."""
    adapted: dict[str, Tensor] = {
        name: value if second_order and value.requires_grad else value.detach().requires_grad_()
        for name, value in network.adapted_parameters().items()
    }
    for _ in range(steps):
        looks_back = support if network.spec.adapted != "embedding" else None
        logit_R = _logit(network, support, adapted, looks_back, frozen=direct)
        loss = F.binary_cross_entropy_with_logits(logit_R, support.label_R, reduction="sum")
        shrunk = network.spec.inner_loss == "shrunk"
        loss = loss / (len(support.label_R) + network.log_shrinkage.exp() if shrunk else max(len(support.label_R), 1))
        gradients = torch.autograd.grad(loss, list(adapted.values()), create_graph=second_order, materialize_grads=True)
        before = adapted
        adapted = {
            name: value - network.rate(name) * gradient
            for (name, value), gradient in zip(adapted.items(), gradients, strict=True)
        }
        if network.spec.newton_bias:
            adapted = {
                network.output_shift: _newton_bias(network, support, before, adapted, logit_R, second_order, direct)
            }
        if not second_order:
            adapted = {name: value.detach().requires_grad_() for name, value in adapted.items()}
    return adapted


def _newton_bias(
    network: Network,
    support: Rows,
    before: dict[str, Tensor],
    after: dict[str, Tensor],
    logit_R: Tensor,
    second_order: bool,
    direct: bool,
) -> Tensor:
    """The gradient step's [W] with its last coordinate replaced by that of a ridge Newton step."""
    name = network.output_shift
    slope_R, shift, ridge = 1, (before[name] - network.get_parameter(name))[-1], network.log_ridge.exp()
    if network.global_block.gate is not None:
        slope_R = F.softplus(network.global_block.gate(network.encode(support)[1])).squeeze(1)
        slope_R = slope_R.detach() if direct else slope_R
    if not second_order:
        logit_R, slope_R, shift = logit_R.detach(), torch.as_tensor(slope_R).detach(), shift.detach()
    p_R = torch.sigmoid(logit_R)
    top = ((p_R - support.label_R) * slope_R).sum() + ridge * shift
    step = network.rate(name).expand(len(before[name]))[-1] if network.rate(name).dim() else 1.0
    last = before[name][-1] - step * top / ((p_R * (1 - p_R) * slope_R**2).sum() + ridge)
    return torch.cat([after[name][:-1], last[None]])


def loop_loss(network: Network, tasks: list[tuple[Rows, Rows]], steps: int, global_gradient: str) -> Tensor:
    """What `limaml.learning.objective.limaml_loss` computes, task after task."""
    losses = []
    for support, query in tasks:
        adapted = adapt_one(network, support, steps, second_order=True, direct=global_gradient == "direct")
        logit_R = _logit(network, query, adapted, support)
        losses.append(F.binary_cross_entropy_with_logits(logit_R, query.label_R, reduction="sum"))
    return torch.stack(losses).sum() / sum(len(query.label_R) for _, query in tasks)


def higher_loss(network: Network, tasks: list[tuple[Rows, Rows]], steps: int) -> Tensor:
    """The same in full at one α by the mean loss, with the inner loop of `higher` (Grefenstette et al., 2019)."""
    inner = torch.optim.SGD(network.meta_block.parameters(), lr=float(network.rate(network.output_shift)))
    losses = []
    for support, query in tasks:
        with higher.innerloop_ctx(network, inner, copy_initial_weights=False) as (task_network, optimizer):
            for _ in range(steps):
                optimizer.step(F.binary_cross_entropy_with_logits(task_network(support), support.label_R))
            logit_R = task_network(query)
            losses.append(F.binary_cross_entropy_with_logits(logit_R, query.label_R, reduction="sum"))
    return torch.stack(losses).sum() / sum(len(query.label_R) for _, query in tasks)


def plain_vanilla_loss(network: Network, rows: Rows) -> Tensor:
    """What `limaml.learning.objective.vanilla_loss` computes, by PyTorch's own layers in its default precision."""
    x_RM, z_RO = network.encode(rows)
    for i, layer in enumerate(network.meta_block.layers):
        x_RM = layer(F.relu(x_RM) if i else x_RM)
    block, h = network.global_block, torch.cat([z_RO, x_RM], 1)
    assert isinstance(block, GlobalBlock), "vanilla has no personal part"
    for layer in block.hidden:
        h = F.relu(layer(h))
    return F.binary_cross_entropy_with_logits(block.out(h).squeeze(1), rows.label_R)


def vmap_loss(network: Network, support: Rows, query: Rows, rate: float) -> Tensor:
    """The same for one full-gradient step at one α by the mean loss, all tasks at once, of tasks of equal length."""
    names = list(network.adapted_parameters())
    shared: dict[str, Tensor] = {name: network.get_parameter(name) for name in names}

    def loss(adapted: dict[str, Tensor], x: Tensor, z: Tensor, label: Tensor) -> Tensor:
        embedding = functional_call(network.meta_block, _below(adapted, "meta_block"), (x,))
        return F.binary_cross_entropy_with_logits(network.global_block(z, embedding), label)

    def one_task(*arguments: Tensor) -> Tensor:
        gradients = grad(loss)(shared, *arguments[:3])
        return loss({name: shared[name] - rate * gradients[name] for name in names}, *arguments[3:])

    def padded(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        x_RM, z_RO = network.encode(rows)
        return rows.padded(x_RM), rows.padded(z_RO), rows.padded(rows.label_R[:, None]).squeeze(2)

    return vmap(one_task)(*padded(support), *padded(query)).mean()


def loop_embed(network: Network, tasks: list[Rows], steps: int) -> Tensor:
    """[T, W] what `limaml.learning.adaptation.embed` computes, task after task."""
    embeddings = []
    for support in tasks:
        adapted = adapt_one(network, support, steps, second_order=False, direct=True)
        with torch.no_grad():
            newest = support.meta_numeric[-1:], support.meta_category[-1:]
            embeddings.append(
                functional_call(network.meta_block, _below(adapted, "meta_block"), (network.meta_encoder(*newest),))
            )
    return torch.cat(embeddings)


def _below(adapted: dict[str, Tensor], block: str) -> dict[str, Tensor]:
    prefix = f"{block}."
    return {name.removeprefix(prefix): value for name, value in adapted.items() if name.startswith(prefix)}


def _logit(
    network: Network, rows: Rows, adapted: dict[str, Tensor], support: Rows | None, frozen: bool = False
) -> Tensor:
    x_RM, z_RO = network.encode(rows)
    arguments = (x_RM, None, rows, None if support is None else network.history(support))
    embedding_RW = functional_call(network.meta_block, _below(adapted, "meta_block"), arguments)
    block, of_global = network.global_block, _below(adapted, "global_block")
    if of_global or not frozen:
        return functional_call(block, of_global, (z_RO, embedding_RW))
    constant = {name: value.detach() for name, value in block.named_parameters()}
    return functional_call(block, constant, (z_RO.detach(), embedding_RW))
