"""Gains in AUC and log loss with intervals that know which rows belong together.

An AUC's influence function makes it a mean over rows, so its variance is that of sums over clusters (Obuchowski's
clustered DeLong), and two correlated clusterings combine as V(a) + V(b) − V(a and b) (Cameron, Gelbach and Miller).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MINIMUM_CLUSTERS = 30


class Gain(BaseModel):
    """One score against another on the same rows.

    `low` and `high` bound the relative AUC gain; None where the two scores are the same, since no effect was chosen, or
    where there are too few clusters for an interval. `log_loss` is the reduction of mean cross-entropy, in nats.
    """

    model_config = ConfigDict(frozen=True)

    auc: float = Field(description="relative, (a − b) / b")
    low: float | None
    high: float | None
    log_loss: float
    log_loss_low: float | None
    log_loss_high: float | None
    clusters: int = Field(description="of the coarser clustering: independent units behind the interval")

    @property
    def same(self) -> bool:
        """Whether the scores do not differ at all."""
        return self.low is None and self.auc == 0 and self.log_loss == 0


def gain(label: Floats, base: Floats, score: Floats, clusterings: Sequence[Integers], level: float) -> Gain:
    """What `score` gains over `base`, both logits, [R] each.

    Args:
        clusterings: one [R] array of cluster numbers, or two where neither nests in the other.
        level: of the interval, such as 0.95.
    """
    area, influence = auc_influence(label, score)
    base_area, base_influence = auc_influence(label, base)
    loss = np.logaddexp(0, base) - label * base - (np.logaddexp(0, score) - label * score)
    relative = (area - base_area) / base_area
    clusters = min(len(np.unique(one)) for one in clusterings)
    low = high = loss_low = loss_high = None
    if clusters >= MINIMUM_CLUSTERS and not np.array_equal(base, score):
        reach = float(stats.t.ppf((1 + level) / 2, clusters - 1))
        half = reach * standard_error(influence / base_area - base_influence * area / base_area**2, clusterings)
        loss_half = reach * standard_error(loss - loss.mean(), clusterings)
        low, high = relative - half, relative + half
        loss_low, loss_high = float(loss.mean()) - loss_half, float(loss.mean()) + loss_half
    return Gain(
        auc=relative,
        low=low,
        high=high,
        log_loss=float(loss.mean()),
        log_loss_low=loss_low,
        log_loss_high=loss_high,
        clusters=clusters,
    )


def auc_influence(label: Floats, score: Floats) -> tuple[float, Floats]:
    """The AUC (ties count half) and each row's influence on it: [R], of mean zero.

    Both classes must be there.
    """
    positive = label > 0
    positives, negatives = int(positive.sum()), int((~positive).sum())
    rank = stats.rankdata(score)
    placement = np.empty(len(score))
    placement[positive] = (rank[positive] - stats.rankdata(score[positive])) / negatives
    placement[~positive] = 1 - (rank[~positive] - stats.rankdata(score[~positive])) / positives
    area = float(placement[positive].mean())
    return area, (placement - area) * len(score) / np.where(positive, positives, negatives)


def standard_error(influence: Floats, clusterings: Sequence[Integers]) -> float:
    """Standard error of a mean of influences of mean zero, when rows of a cluster depend on each other."""
    variances = [_variance(influence, one) for one in clusterings]
    if len(variances) == 2:
        first, second = clusterings
        both = np.unique(first * (int(second.max()) + 1) + second, return_inverse=True)[1]
        variances.append(variances[0] + variances[1] - _variance(influence, both))
    return float(np.sqrt(max(variances)))


def _variance(influence: Floats, cluster: Integers) -> float:
    cluster = np.unique(cluster, return_inverse=True)[1]
    sums = np.bincount(cluster, influence)
    return float((sums**2).sum() / len(influence) ** 2 * len(sums) / max(len(sums) - 1, 1))
