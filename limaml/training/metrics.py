"""Offline metrics of scores against labels. AUC gains are relative, as in the paper: (a − b) / b."""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Metrics:
    """Figures of one algorithm on one slice; None where the slice can't have one (a single class, no rows).

    Attributes:
        rows: scored rows.
        tasks: tasks they belong to.
        auc: area under the ROC curve over all rows.
        gauc: mean of the per-task AUCs over tasks with both classes, each task counted once.
        gauc_tasks: how many tasks that mean is over.
        log_loss: mean cross-entropy, in nats.
        calibration: mean score over label rate; 1 is calibrated.
    """

    rows: int
    tasks: int
    auc: float | None
    gauc: float | None
    gauc_tasks: int
    log_loss: float | None
    calibration: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain values, for JSON."""
        return asdict(self)


def auc(label: npt.NDArray, score: Floats) -> float | None:
    """Area under the ROC curve (ties count half), or None where only one class is there."""
    positives = int(label.sum())
    negatives = len(label) - positives
    if positives == 0 or negatives == 0:
        return None
    ranks = rankdata(score)
    return float((ranks[label > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def grouped_auc(task: npt.NDArray[np.int64], label: npt.NDArray, score: Floats) -> tuple[float | None, int]:
    """Mean per-task AUC over tasks with both classes, and how many those are. All tasks at once, ties count half."""
    if len(label) == 0:
        return None, 0
    order = np.lexsort((score, task))
    task, label, score = task[order], label[order].astype(np.float64), score[order]
    new_task = np.r_[True, task[1:] != task[:-1]]
    new_tie = new_task | np.r_[True, score[1:] != score[:-1]]
    tie = np.cumsum(new_tie) - 1
    tie_size = np.bincount(tie)
    group = np.cumsum(new_task) - 1
    first_row = np.flatnonzero(new_task)[group]
    # Average rank inside the task: the tie's first place plus half its size.
    rank = (np.flatnonzero(new_tie)[tie] - first_row) + (tie_size[tie] + 1) / 2
    positives = np.bincount(group, label)
    total = np.bincount(group)
    negatives = total - positives
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return None, 0
    rank_sum = np.bincount(group, rank * label)
    area = (rank_sum - positives * (positives + 1) / 2)[both] / (positives * negatives)[both]
    return float(area.mean()), int(both.sum())


def evaluate(task: npt.NDArray[np.int64], label: npt.NDArray, score: Floats) -> Metrics:
    """All metrics of one slice. `score` holds probabilities."""
    rows = len(label)
    if rows == 0:
        return Metrics(0, 0, None, None, 0, None, None)
    clipped = np.clip(score.astype(np.float64), 1e-7, 1 - 1e-7)
    positive = label > 0
    loss = -np.where(positive, np.log(clipped), np.log1p(-clipped)).mean()
    rate = float(positive.mean())
    mean_auc, mean_tasks = grouped_auc(task, label, score)
    return Metrics(
        rows=rows,
        tasks=len(np.unique(task)),
        auc=auc(label, score),
        gauc=mean_auc,
        gauc_tasks=mean_tasks,
        log_loss=float(loss),
        calibration=float(clipped.mean()) / rate if rate > 0 else None,
    )


def relative_gain(value: float | None, base: float | None) -> float | None:
    """(value − base) / base, None where either is missing or the base is 0 (an AUC on a handful of rows can be)."""
    return None if value is None or not base else (value - base) / base
