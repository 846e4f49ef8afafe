"""What the outer loop minimizes: LiMAML's query loss after adaptation, and the vanilla loss on the same batches."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from limaml.learning.adaptation import GlobalGradient, MetaGradient, adapt
from limaml.learning.network import Network
from limaml.learning.rows import Rows


def vanilla_loss(network: Network, rows: Rows) -> Tensor:
    """Mean cross-entropy of the un-adapted network over all rows of a batch of tasks."""
    return F.binary_cross_entropy_with_logits(network(rows), rows.label_R)


def limaml_loss(
    network: Network,
    support: Rows,
    query: Rows,
    steps: int,
    global_gradient: GlobalGradient = "full",
    unadapted_weight: float = 0.0,
    rows: Rows | None = None,
    meta_gradient: MetaGradient = "second_order",
) -> Tensor:
    """Mean cross-entropy over query rows after each task's adaptation (Alg. 2a, lines 10-13).

    With `unadapted_weight`, the un-adapted network's mean loss on `rows` (all rows of the batch, those of dropped
    support sets included) is added, so that members without samples, who meet θ_meta as it is, stay well served.
    """
    shifts = adapt(network, support, steps, meta_gradient, global_gradient)
    loss = F.binary_cross_entropy_with_logits(network(query, shifts, support), query.label_R)
    if unadapted_weight == 0 or rows is None:
        return loss
    return loss + unadapted_weight * vanilla_loss(network, rows)


def drop_support(support: Rows, share: float, generator: torch.Generator) -> Rows:
    """Empty the support sets of a random share of tasks, as cold members have them.

    Of those of each further task definition, the same share is emptied beside them.
    """
    if share == 0:
        return support

    def keep_R(task_R: Tensor, tasks: int) -> Tensor:
        keep_T = torch.rand(tasks, generator=generator) >= share
        return keep_T.to(task_R.device)[task_R]

    kept = support.where(keep_R(support.task_R, support.tasks))
    also = zip(kept.also_R, kept.also_tasks, strict=True)
    return replace(kept, also_R=tuple(torch.where(keep_R(task_R, tasks), task_R, -1) for task_R, tasks in also))
