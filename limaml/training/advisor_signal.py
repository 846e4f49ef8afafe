"""Does a task explain, later on, what the features leave unexplained? Learned forward in time, judged once.

Shrinkage is chosen by what effects of the early rows say about the late ones, a gap between; then effects of the whole
middle part are judged on the test part, which nothing before has seen.

Shapes: R rows of the sample, T tasks, K effects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from limaml.config import Application
from limaml.training.advisor_baseline import Parts, directions
from limaml.training.advisor_candidates import Candidate
from limaml.training.advisor_effects import VARIANCES, fit_effects, score_effects
from limaml.training.advisor_intervals import Gain, gain
from limaml.training.advisor_sample import Sample
from limaml.training.metrics import auc, grouped_auc

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[np.bool_]


class Signal(BaseModel):
    """What a task adds to the features, on the test part."""

    model_config = ConfigDict(frozen=True)

    test_rows: int
    covered: float = Field(description="share of test rows whose task has rows in the middle part")
    features_auc: float = Field(description="AUC of the features-only model on these rows")
    total: Gain = Field(description="intercept and slopes over the features alone")
    intercept: Gain = Field(description="one intercept per task over the features alone")
    slopes: Gain = Field(description="slopes over item features, beyond that intercept")
    intercept_spread: float = Field(description="chosen prior standard deviation, in logits; 0: none predicted better")
    slopes_spread: float = Field(description="the same of the slopes' whole part of a typical row's logit")
    features_gauc: float | None = Field(description="mean AUC inside a task, features alone")
    gauc: float | None = Field(description="the same with the effects; an intercept alone can't move it")
    clustered_by: str


class Refinement(BaseModel):
    """What splitting a coarser definition's tasks adds beyond that definition's own effects."""

    model_config = ConfigDict(frozen=True)

    beyond: tuple[str, ...]
    gain: Gain


@dataclass(frozen=True)
class Ground:
    """What every candidate is measured on; `logit` [R] is the features-only model's."""

    application: Application
    sample: Sample
    parts: Parts
    logit: Floats
    left_out: Sequence[str]
    level: float


@dataclass(frozen=True)
class Learned:
    """[R] logits of each row: from effects of the early rows, of the middle rows, and of those intercepts alone."""

    early: Floats
    middle: Floats
    intercept: Floats
    variance: Floats


@dataclass(frozen=True)
class Measured:
    """A candidate's signal, and what its refinements need of it: task [R], design [R, K], rows [R] in its sample."""

    candidate: Candidate
    signal: Signal
    learned: Learned
    task: Integers
    design: Floats
    rows: Rows


def measure(ground: Ground, candidate: Candidate) -> Measured:
    """The signal of a candidate by itself."""
    sample, parts = ground.sample, ground.parts
    task, rows = candidate.tasks(sample), sample.kept[candidate.entity]
    slopes = directions(sample, task, parts.fit & rows, ground.application, ground.left_out)
    design = np.column_stack([np.ones(len(task)), slopes])
    learned = _learn(ground, rows, task, design, ground.logit, ground.logit)
    test = rows & parts.test
    label, base = sample.label[test], ground.logit[test]
    clusterings, clustered_by = _clusterings(ground, candidate, task, test)

    def gained(score: Floats, over: Floats) -> Gain:
        return gain(label, over[test], score[test], clusterings, ground.level)

    spread = np.sqrt(learned.variance)
    signal = Signal(
        test_rows=int(test.sum()),
        covered=float(np.isin(task[test], task[rows & parts.middle]).mean()),
        features_auc=auc(label, base) or 0.0,
        total=gained(learned.middle, ground.logit),
        intercept=gained(learned.intercept, ground.logit),
        slopes=gained(learned.middle, learned.intercept),
        intercept_spread=float(spread[0]),
        slopes_spread=float(spread[1]) if len(spread) > 1 else 0.0,
        features_gauc=grouped_auc(task[test], label, base)[0],
        gauc=grouped_auc(task[test], label, learned.middle[test])[0],
        clustered_by=clustered_by,
    )
    return Measured(candidate, signal, learned, task, design, rows)


def refine(ground: Ground, finer: Measured, coarser: Measured) -> Refinement:
    """What the finer definition adds where the coarser one's effects are there already."""
    rows = finer.rows & coarser.rows
    learned = _learn(ground, rows, finer.task, finer.design, coarser.learned.early, coarser.learned.middle)
    test = rows & ground.parts.test
    clusterings, _ = _clusterings(ground, coarser.candidate, coarser.task, test)
    label = ground.sample.label[test]
    added = gain(label, coarser.learned.middle[test], learned.middle[test], clusterings, ground.level)
    return Refinement(beyond=coarser.candidate.keys, gain=added)


def _learn(ground: Ground, rows: Rows, task: Integers, design: Floats, early: Floats, middle: Floats) -> Learned:
    """Choose shrinkage from early to late rows over the logit `early`, then fit the middle rows over `middle`."""
    parts, label, tasks = ground.parts, ground.sample.label, int(task.max()) + 1
    seen, judged = rows & parts.early, rows & parts.late

    def fit(on: Rows, logit: Floats, variance: Floats, start: Floats | None = None) -> Floats:
        return fit_effects(task[on], label[on], logit[on], design[on], variance, tasks, start)

    def reduction(effects: Floats) -> float:
        """Of the late rows' cross-entropy, summed."""
        score = early[judged] + score_effects(effects, task[judged], design[judged])
        return float(_loss(label[judged], early[judged]).sum() - _loss(label[judged], score).sum())

    variance, best, effects = np.zeros(design.shape[1]), 0.0, fit(seen, early, np.zeros(design.shape[1]))
    # The intercept first, then slopes beside it: what is the task's base rate is not to be told as a taste.
    for free in (slice(0, 1), slice(1, None)):
        chosen, start = (variance, effects), effects
        for value in VARIANCES if design[:, free].shape[1] else ():
            tried = variance.copy()
            tried[free] = value
            start = fit(seen, early, tried, start)
            if (reduced := reduction(start)) > best:
                best, chosen = reduced, (tried, start)
        variance, effects = chosen
    alone = variance * (np.arange(len(variance)) == 0)
    final, intercepts = fit(rows & parts.middle, middle, variance), fit(rows & parts.middle, middle, alone)
    return Learned(
        early=early + score_effects(effects, task, design),
        middle=middle + score_effects(final, task, design),
        intercept=middle + score_effects(intercepts, task, design),
        variance=variance,
    )


def _clusterings(ground: Ground, candidate: Candidate, task: Integers, test: Rows) -> tuple[list[Integers], str]:
    """Where the key names the member, a member's tasks share luck: cluster by member. Else by member and by task."""
    column = ground.application.data.member_column
    member = np.unique(ground.sample.keys[column][test], return_inverse=True)[1]
    if column in candidate.keys:
        return [member], column
    return [member, np.unique(task[test], return_inverse=True)[1]], f"{column} and task"


def _loss(label: Floats, logit: Floats) -> Floats:
    return np.logaddexp(0, logit) - label * logit
