"""The arithmetic of the A/B report, on integer sums: delta method, Fieller interval, split check, Holm.

tea-tasting does the delta method; it is only ever handed aggregates, since it reads large Arrow tables wrong. All of it
is a normal approximation, so a population below `MINIMUM_MEMBERS` per arm is not tested.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics.mean import RatioOfMeans

from limaml.experiment.metrics import Sums

MINIMUM_MEMBERS = 30
POWER = 0.8


@dataclass(frozen=True)
class Effect:
    """Treatment against control for one ratio metric; lifts are relative to control.

    `lift_low`, `lift_high`: Fieller's interval, None where the control is too noisy to bound the ratio.
    `standard_error`: of the absolute difference. `p_value`: two-sided, of no difference.
    """

    control: float
    treatment: float
    lift: float
    lift_low: float | None
    lift_high: float | None
    standard_error: float
    p_value: float

    def minimum_detectable(self, alpha: float, power: float = POWER) -> float:
        """The smallest relative effect a test at level `alpha` would find with this power."""
        quantiles = stats.norm.isf(alpha / 2) + stats.norm.ppf(power)
        return float(quantiles * self.standard_error / self.control)


def untestable(control: Sums | None, treatment: Sums | None) -> str:
    """Why two populations can't be compared; empty where they can."""
    fewest = min(0 if arm is None else arm.members for arm in (control, treatment))
    if control is None or treatment is None or fewest < MINIMUM_MEMBERS:
        return f"only {fewest} members in the smaller arm; {MINIMUM_MEMBERS} are needed"
    if not control.y or not treatment.y or not control.x:
        return "nothing happened in control, so there is no relative change"
    if _squared_error(control) + _squared_error(treatment) <= 0:
        return "every member behaved the same, so there is nothing to test"
    return ""


def compare(control: Sums, treatment: Sums, confidence: float) -> Effect:
    """Delta-method comparison of a ratio metric between two arms randomised by member.

    The interval is Fieller's, from the same variances as the p-value: it excludes zero exactly when the p-value is
    below 1 − confidence.
    """
    metric = RatioOfMeans("x", "y", alternative="two-sided", confidence_level=confidence, equal_var=False, use_t=False)
    result = metric.analyze_aggregates(_aggregates(control), _aggregates(treatment))
    errors = _squared_error(control), _squared_error(treatment)
    ratio_low, ratio_high = fieller(result.control, result.treatment, *errors, confidence) or (None, None)
    return Effect(
        control=float(result.control),
        treatment=float(result.treatment),
        lift=float(result.rel_effect_size),
        lift_low=None if ratio_low is None else ratio_low - 1,
        lift_high=None if ratio_high is None else ratio_high - 1,
        standard_error=math.sqrt(sum(errors)),
        p_value=float(result.pvalue),
    )


def fieller(
    control: float, treatment: float, control_variance: float, treatment_variance: float, confidence: float
) -> tuple[float, float] | None:
    """Interval of treatment / control from two independent estimates and their squared standard errors.

    It holds every ratio r for which treatment − r · control is not significantly different from zero. None where
    control itself is not significantly different from zero: then no finite interval exists.
    """
    z2 = stats.norm.isf((1 - confidence) / 2) ** 2
    a = control**2 - z2 * control_variance
    b = control * treatment
    c = treatment**2 - z2 * treatment_variance
    if a <= 0:
        return None
    root = math.sqrt(max(b * b - a * c, 0.0))
    return float((b - root) / a), float((b + root) / a)


def split_p_value(control: int, treatment: int, treatment_fraction: float) -> float:
    """Chi-square p-value of the members' split over the arms against the configured fraction."""
    total = control + treatment
    expected = [total * (1 - treatment_fraction), total * treatment_fraction]
    return float(stats.chisquare([control, treatment], expected).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; valid under any dependence between the tests."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted.tolist()


def _aggregates(sums: Sums) -> Aggregates:
    n = sums.members

    def covariance(product: int, left: int, right: int) -> float:
        # In integers until the division: nothing cancels, nothing depends on the order of summation.
        return (n * product - left * right) / (n * (n - 1))

    return Aggregates(
        count_=n,
        mean_={"x": sums.x / n, "y": sums.y / n},
        var_={"x": covariance(sums.xx, sums.x, sums.x), "y": covariance(sums.yy, sums.y, sums.y)},
        cov_={("x", "y"): covariance(sums.xy, sums.x, sums.y)},
    )


def _squared_error(sums: Sums) -> float:
    """Squared standard error of x / y by the delta method."""
    return float(_aggregates(sums).ratio_var("x", "y")) / sums.members
