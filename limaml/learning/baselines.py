"""The control every personalization is held against: one intercept per task on top of a fixed model."""

import torch
from torch import Tensor

from limaml.learning.rows import Rows


def task_intercept(logit_R: Tensor, support: Rows, ridge: float) -> Tensor:
    """[T] intercepts by one Newton step of ridge logistic regression on the support rows' residuals.

    b = Σ(y − p) / (Σ p(1 − p) + ridge); 0 for a task without samples. It knows a member's base rate and nothing else.
    """
    p_R = torch.sigmoid(logit_R)
    gradient_T = support.sum_by_task(support.label_R - p_R)
    curvature_T = support.sum_by_task(p_R * (1 - p_R))
    return gradient_T / (curvature_T + ridge)
