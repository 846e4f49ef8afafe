"""The A/B report: what was found, as data, and in words a product manager can act on."""

import csv
import io
from typing import Literal

from pydantic import BaseModel, ConfigDict

from limaml.experiment.metrics import CTR, EVERYONE, WAU

Verdict = Literal["up", "down", "no evidence", "not tested"]
NAMES = {CTR: "CTR", WAU: "WAU"}


class Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SplitCheck(Result):
    """Whether members were split as configured; a broken split makes every comparison meaningless."""

    control: int
    treatment: int
    treatment_fraction: float
    p_value: float
    in_both_arms: int
    passed: bool


class Comparison(Result):
    """One cohort and metric. Lifts are relative to control; figures are null where the test was not made.

    `p_adjusted` is Holm's over all tests of the report; `minimum_detectable` the relative effect found four times out
    of five, at the level the strictest of these tests has.
    """

    cohort: str
    metric: str
    control_members: int
    treatment_members: int
    control: float | None = None
    treatment: float | None = None
    lift: float | None = None
    lift_low: float | None = None
    lift_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    minimum_detectable: float | None = None
    verdict: Verdict = "not tested"
    note: str = ""


class ABReport(Result):
    """An experiment's result: JSON as it is, CSV by its comparisons, HTML by `limaml.experiment.page`."""

    application: str
    title: str
    start: str
    end: str
    experiment: str
    salt: str
    confidence: float
    impressions: int
    weeks: int
    week_days: int
    split: SplitCheck
    comparisons: list[Comparison]
    reasons: dict[str, int]

    @property
    def tested(self) -> list[Comparison]:
        """Comparisons that were tested, in the order of the report."""
        return [comparison for comparison in self.comparisons if comparison.p_value is not None]

    def find(self, cohort: str, metric: str) -> Comparison | None:
        """One comparison; None where nobody of the cohort was exposed."""
        return next((c for c in self.comparisons if (c.cohort, c.metric) == (cohort, metric)), None)

    def conclusions(self) -> list[str]:
        """What to conclude, in sentences: the split, both metrics over everyone, cohorts that moved on their own."""
        if not self.split.passed:
            return [why_broken(self.split)]
        sentences = [sentence(c, self.confidence) for metric in NAMES if (c := self.find(EVERYONE, metric))]
        moved = [c for c in self.tested if c.cohort != EVERYONE and c.verdict in ("up", "down")]
        if moved:
            found = ", ".join(f"{c.cohort} {NAMES[c.metric]} {c.verdict} {percent(c.lift)}" for c in moved)
            sentences.append(f"By cohort: {found}.")
        return sentences

    def to_csv(self) -> str:
        """One line a comparison, with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Comparison.model_fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(comparison.model_dump() for comparison in self.comparisons)
        return text.getvalue()


def why_broken(split: SplitCheck) -> str:
    """Why a broken split forbids any conclusion."""
    if split.in_both_arms:
        found = f"{split.in_both_arms:,} members were served both variants"
    else:
        share = split.treatment / (split.control + split.treatment)
        found = (
            f"{percent(share, sign=False)} of the members are in treatment where "
            f"{percent(split.treatment_fraction, sign=False)} should be (p = {p_text(split.p_value)})"
        )
    return (
        f"The split is broken: {found}. Members are then missing from one arm for a reason, and that reason, not the "
        "model, may be what differs. No lift is shown; find the cause (assignment, logging, filtering) and run again."
    )


def sentence(comparison: Comparison, confidence: float) -> str:
    """One comparison in words."""
    name = NAMES[comparison.metric]
    if comparison.verdict == "not tested":
        return f"{name} was not tested: {comparison.note}."
    interval = f"{percent(confidence, 0, sign=False)} interval {interval_text(comparison)}"
    if comparison.verdict == "no evidence":
        return (
            f"{name}: no evidence of a change ({percent(comparison.lift)}, {interval}). An effect smaller than "
            f"{percent(comparison.minimum_detectable, sign=False)} could not have been seen reliably, so this is not "
            "proof that there is none."
        )
    return f"{name} is {comparison.verdict} by {percent(abs(comparison.lift or 0), sign=False)} ({interval})."


def interval_text(comparison: Comparison) -> str:
    """The relative interval of a tested comparison."""
    if comparison.lift_low is None or comparison.lift_high is None:
        return "unbounded"
    return f"{percent(comparison.lift_low)} to {percent(comparison.lift_high)}"


def percent(value: float | None, digits: int | None = None, sign: bool = True) -> str:
    """A ratio as a percentage, by default with as many digits as its size deserves: +12.3 %, −0.42 %."""
    if value is None:
        return "–"
    if digits is None:
        digits = 1 if abs(value) >= 0.0995 else 2
    text = f"{100 * value:{'+' if sign else ''}.{digits}f} %"
    return text.replace("-", "−")


def p_text(value: float | None) -> str:
    """A p-value for a person."""
    if value is None:
        return "–"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
