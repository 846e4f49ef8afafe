"""Per-task effects beyond a given logit: an intercept and slopes, shrunk towards zero by a prior variance each.

Each task's effects are the mode of its logistic likelihood under independent normal priors, by Newton's method over all
tasks at once. Shapes: R rows, T tasks, K effects of a task (the intercept first).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.special import expit

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Prior variances tried, in squared logits; 0, no effect, is the choice where none of them predicts better.
VARIANCES = (0.02, 0.06, 0.15, 0.4, 1.0, 2.5)
_BLOCK = 1 << 15
_STEPS = 25
_TOLERANCE = 1e-3


def task_blocks(task: Integers, rows: int) -> Iterator[tuple[slice, Integers]]:
    """Blocks of about `rows` rows that hold whole tasks, with each task's start inside its block.

    Args:
        task: [R], rows of a task contiguous.
    """
    if not len(task):
        return
    starts = np.flatnonzero(np.append(True, task[1:] != task[:-1]))
    ends = np.append(starts[1:], len(task))
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + rows, side="right")))
        yield slice(int(starts[first]), int(ends[last - 1])), starts[first:last] - starts[first]
        first = last


def fit_effects(
    task: Integers,
    label: Floats,
    logit: Floats,
    design: Floats,
    variance: Floats,
    tasks: int,
    start: Floats | None = None,
) -> Floats:
    """[T, K] effects of each task; zero for a task without rows, and where the prior variance is zero.

    Args:
        task: [R] task of each row, below `tasks`.
        label: [R] 0 or 1.
        logit: [R] what is known without the task.
        design: [R, K] what each effect multiplies; the intercept's column holds ones.
        variance: [K] prior variances.
        start: [T, K] where to begin, such as the effects under another variance.
    """
    free = np.flatnonzero(variance > 0)
    effects = np.zeros((tasks, design.shape[1])) if start is None else np.where(variance > 0, start, 0.0)
    if not len(free):
        return effects
    precision = 1 / variance[free]
    order = np.argsort(task, kind="stable")
    sorted_task = task[order]
    for block, starts in task_blocks(sorted_task, _BLOCK):
        rows, here = order[block], sorted_task[block][starts]
        effects[np.ix_(here, free)] = _newton(
            label[rows], logit[rows], design[np.ix_(rows, free)], precision, starts, effects[np.ix_(here, free)]
        )
    return effects


def score_effects(effects: Floats, task: Integers, design: Floats) -> Floats:
    """[R] what each row's task adds to its logit."""
    return (effects[task] * design).sum(axis=1)


def _newton(
    label: Floats, logit: Floats, design: Floats, precision: Floats, starts: Integers, effects: Floats
) -> Floats:
    counts = np.diff(np.append(starts, len(label)))
    of_row = np.repeat(np.arange(len(starts)), counts)
    products = design[:, :, None] * design[:, None, :]
    for _ in range(_STEPS):
        probability = expit(logit + (effects[of_row] * design).sum(axis=1))
        weight = probability * (1 - probability)
        gradient = np.add.reduceat(design * (label - probability)[:, None], starts) - effects * precision
        curvature = np.add.reduceat(products * weight[:, None, None], starts) + np.diag(precision)
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        # Far from the mode of a lopsided task a full step overshoots; a bounded one does not.
        effects = effects + np.clip(step, -1.0, 1.0)
        if np.abs(step).max() < _TOLERANCE:
            break
    return effects
