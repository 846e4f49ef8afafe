"""Which rows a figure is about: all, those whose task had samples to adapt on, by number of samples, by cohort."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limaml.cohorts import COHORTS, TITLES
from limaml.training.evaluation import VANILLA, Scored
from limaml.training.metrics import Metrics, evaluate, relative_gain

ALL, WITH_SUPPORT = "all", "with_support"
BUCKETS = {
    "samples_0": (0, 0),
    "samples_1_5": (1, 5),
    "samples_6_24": (6, 24),
    "samples_1_24": (1, 24),
    "samples_25_up": (25, None),
}


@dataclass(frozen=True)
class Figure:
    """One algorithm on one slice. `gain` is the relative AUC gain over vanilla on the same slice."""

    slice: str
    algorithm: str
    metrics: Metrics
    gain: float | None


def title(name: str) -> str:
    """A slice's name in words."""
    if name in TITLES:
        return TITLES[name]
    fixed = {ALL: "all rows", WITH_SUPPORT: "rows of tasks with samples to adapt on"}
    if name in fixed:
        return fixed[name]
    low, high = BUCKETS[name]
    return "tasks without samples" if high == 0 else f"tasks with {low}{'+' if high is None else f' to {high}'} samples"


def masks(scored: Scored, cohort_of_task: npt.NDArray[np.str_] | None) -> dict[str, npt.NDArray[np.bool_]]:
    """Rows of each slice; cohorts only where they are known and not empty."""
    rows = {ALL: np.ones(len(scored.label), dtype=bool), WITH_SUPPORT: scored.samples > 0}
    for name, (low, high) in BUCKETS.items():
        rows[name] = (scored.samples >= low) & (scored.samples <= (np.inf if high is None else high))
    if cohort_of_task is not None:
        cohort_of_row = cohort_of_task[scored.task]
        rows |= {cohort: cohort_of_row == cohort for cohort in COHORTS}
    return {name: mask for name, mask in rows.items() if mask.any() or name in (ALL, WITH_SUPPORT)}


def measure(scored: Scored, cohort_of_task: npt.NDArray[np.str_] | None = None) -> dict[str, dict[str, Metrics]]:
    """slice → algorithm → metrics."""
    return {
        name: {a: evaluate(scored.task[mask], scored.label[mask], s[mask]) for a, s in scored.scores.items()}
        for name, mask in masks(scored, cohort_of_task).items()
    }


def figures(scored: Scored, cohort_of_task: npt.NDArray[np.str_] | None = None) -> list[Figure]:
    """Every algorithm on every slice, vanilla first."""
    return [
        Figure(name, algorithm, metrics, relative_gain(metrics.auc, by_algorithm[VANILLA].auc))
        for name, by_algorithm in measure(scored, cohort_of_task).items()
        for algorithm, metrics in by_algorithm.items()
    ]
