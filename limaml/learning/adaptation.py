"""The inner loop (Alg. 2a lines 5-9, Alg. 2b): a few gradient steps on each task's support set, all tasks at once.

Shapes are those of `limaml.learning.rows`.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from limaml.learning.network import Network
from limaml.learning.rows import Rows


def task_loss(network: Network, logit_R: Tensor, rows: Rows, shrinkage: float | None = None) -> Tensor:
    """[T] inner losses: each task's summed cross-entropy over its samples, or over (samples + κ) where shrunk.

    Eq. (1) of the paper prints the cross-entropy without its minus sign; this is the loss that is minimized. A task
    without samples has loss 0, hence no gradient. `shrinkage` is a κ to use instead of the network's own loss.
    """
    sum_T = rows.sum_by_task(F.binary_cross_entropy_with_logits(logit_R, rows.label_R, reduction="none"))
    if shrinkage is not None:
        return sum_T / (rows.count_T + shrinkage)
    if network.spec.inner_loss == "shrunk":
        return sum_T / (rows.count_T + network.log_shrinkage.exp())
    return sum_T / rows.count_T.clamp(min=1)


def adapt(
    network: Network,
    support: Rows,
    steps: int,
    second_order: bool = False,
    global_gradient: str = "full",
    rate: float | None = None,
    shrinkage: float | None = None,
) -> dict[str, Tensor]:
    """Adapted meta-block parameters of every task, each [T, …], after `steps` SGD steps on its support rows.

    Args:
        network: the shared parameters to start from.
        support: support rows; a task without any keeps θ_meta.
        steps: n in training, k in generation; 0 changes nothing.
        second_order: keep the graph, so that an outer gradient passes through the steps.
        global_gradient: `direct` treats θ_global as a constant inside the loop (Alg. 2a, line 13 read literally).
        rate, shrinkage: α and κ to use instead of the network's own (to fine-tune a vanilla network, which has none).
    """
    adapted = network.initial(support.tasks)
    if steps == 0 or len(support.label_R) == 0:
        return adapted
    if not second_order:
        adapted = {name: value.detach().requires_grad_() for name, value in adapted.items()}
    with torch.enable_grad():
        x_RM, z_RO = network.encode(support)
        frozen = {name: value.detach() for name, value in network.global_block.named_parameters()}
        direct = global_gradient == "direct" or not second_order
        if direct:
            z_RO = z_RO.detach()
        for _ in range(steps):
            embedding_RW = network.meta_block(x_RM, adapted, support)
            if direct:
                logit_R = functional_call(network.global_block, frozen, (z_RO, embedding_RW))
            else:
                logit_R = network.global_block(z_RO, embedding_RW)
            loss = task_loss(network, logit_R, support, shrinkage).sum()
            gradients = torch.autograd.grad(loss, list(adapted.values()), create_graph=second_order)
            adapted = {
                name: value - (network.rate(name) if rate is None else rate) * gradient
                for (name, value), gradient in zip(adapted.items(), gradients, strict=True)
            }
            if not second_order:
                adapted = {name: value.detach().requires_grad_() for name, value in adapted.items()}
    return adapted


def embed(network: Network, support: Rows, steps: int, pooling: str = "latest") -> Tensor:
    """[T, W] meta embeddings (Alg. 2b): adapt on the support rows, then run them through the adapted meta block.

    `latest` keeps the most recent row's output; `mean` and `max` pool over the rows; `cosine` averages them weighted by
    their cosine similarity to the latest (negative similarities count as 0). Every task needs at least one row.
    """
    adapted = adapt(network, support, steps)
    with torch.no_grad():
        embedding_RW = network.meta_block(network.encode(support)[0], adapted, support)
        count_T = torch.bincount(support.task_R, minlength=support.tasks)
        assert bool((count_T > 0).all()), "a task without samples has no embedding of its own"
        latest_TW = embedding_RW[count_T.cumsum(0) - 1]
        if pooling == "latest":
            return latest_TW
        if pooling == "max":
            index = support.task_R[:, None].expand_as(embedding_RW)
            return torch.full_like(latest_TW, -torch.inf).scatter_reduce(0, index, embedding_RW, "amax")
        weight_R = torch.ones_like(support.label_R)
        if pooling == "cosine":
            weight_R = F.cosine_similarity(embedding_RW, latest_TW[support.task_R]).clamp(min=0)
        total_TW = torch.zeros_like(latest_TW).index_add(0, support.task_R, weight_R[:, None] * embedding_RW)
        return total_TW / support.sum_by_task(weight_R)[:, None]


def served_logit(network: Network, support: Rows, query: Rows, steps: int, pooling: str = "latest") -> Tensor:
    """[R] logits of query rows as they would be served: the global block on each task's stored embedding.

    A task without support rows has none, and gets the un-adapted meta block on the query row's own meta features.
    """
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
