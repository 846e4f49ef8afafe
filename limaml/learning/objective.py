"""What the outer loop minimizes: LiMAML's query loss after adaptation, and the vanilla loss on the same batches."""

import torch
from torch import Tensor
from torch.nn import functional as F

from limaml.learning.adaptation import adapt
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
    global_gradient: str = "full",
    unadapted_weight: float = 0.0,
) -> Tensor:
    """Mean cross-entropy over query rows after each task's adaptation (Alg. 2a, lines 10-13).

    With `unadapted_weight`, the un-adapted network's loss on all rows is added, so that members without samples, who
    meet θ_meta as it is, stay well served.
    """
    adapted = adapt(network, support, steps, second_order=True, global_gradient=global_gradient)
    loss = F.binary_cross_entropy_with_logits(network(query, adapted), query.label_R)
    if unadapted_weight == 0:
        return loss
    logit_R = torch.cat([network(support), network(query)])
    label_R = torch.cat([support.label_R, query.label_R])
    return loss + unadapted_weight * F.binary_cross_entropy_with_logits(logit_R, label_R)


def drop_support(support: Rows, share: float, generator: torch.Generator) -> Rows:
    """Empty the support sets of a random share of tasks, as cold members have them."""
    if share == 0:
        return support
    keep_T = torch.rand(support.tasks, generator=generator) >= share
    return support.where(keep_T.to(support.task_R.device)[support.task_R])
