"""What the figures mean: a verdict per candidate and one recommendation, in words."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from limaml.training.advisor_candidates import Cost, Sizes
from limaml.training.advisor_intervals import Gain
from limaml.training.advisor_signal import Refinement, Signal


class Verdict(StrEnum):
    """What to do with a candidate."""

    PERSONALIZE = "personalize"
    COARSER = "use_coarser"
    TOO_SMALL = "too_small"
    NOTHING = "nothing"
    UNPROVEN = "unproven"


class CandidateAdvice(BaseModel):
    """One key tuple: its tasks, its signal, its cost, what it adds to coarser ones, and what to do."""

    model_config = ConfigDict(frozen=True)

    keys: tuple[str, ...]
    sizes: Sizes
    cost: Cost
    signal: Signal
    refinements: tuple[Refinement, ...]
    verdict: Verdict
    text: str


class Advice(BaseModel):
    """The whole answer."""

    model_config = ConfigDict(frozen=True)

    application: str
    title: str
    recommended: tuple[str, ...] | None = Field(description="the definition to use; none: don't personalize")
    recommendation: str
    minimum_gain: float
    confidence: float = Field(description="that all intervals hold at once")
    interval_level: float = Field(description="of each interval (Bonferroni)")
    rows: int
    skipped_rows: int
    sampled_fraction: float
    features_until: str = Field(description="day after the last that trained the features-only model")
    effects_until: str = Field(description="day after the last that effects were estimated on; the test starts here")
    test_until: str
    gap_days: int
    seed: int
    candidates: tuple[CandidateAdvice, ...]


def spell(keys: Sequence[str]) -> str:
    """A key tuple as written in text: `(user_id, type)`."""
    return f"({', '.join(keys)})"


def percent(value: float) -> str:
    """A relative gain."""
    return f"{value:+.2%}"


def interval(gain: Gain) -> str:
    """A gain with its interval, where it has one."""
    if gain.same:
        return "0"
    if gain.low is None or gain.high is None:
        return percent(gain.auc)
    return f"{percent(gain.auc)} [{100 * gain.low:+.2f}, {100 * gain.high:+.2f}]"


def judge(gain: Gain, minimum_gain: float) -> Verdict:
    """What one interval allows to say."""
    if gain.same:
        return Verdict.NOTHING
    if gain.low is None or gain.high is None:
        return Verdict.UNPROVEN
    if gain.low > 0:
        return Verdict.PERSONALIZE if gain.auc >= minimum_gain else Verdict.TOO_SMALL
    return Verdict.NOTHING if gain.high < minimum_gain else Verdict.UNPROVEN


def conclude(
    signal: Signal,
    refinements: Sequence[Refinement],
    standing: Mapping[tuple[str, ...], Verdict],
    minimum_gain: float,
) -> tuple[Verdict, str]:
    """Verdict and words of one candidate.

    Args:
        standing: verdicts of the coarser candidates; only those that pay by themselves have to be beaten.
    """
    verdict = judge(signal.total, minimum_gain)
    text = _alone(signal, verdict, minimum_gain)
    for refinement in refinements:
        added = judge(refinement.gain, minimum_gain)
        text += f" Beyond {spell(refinement.beyond)} it adds {interval(refinement.gain)}."
        pays = standing[refinement.beyond] is Verdict.PERSONALIZE
        if verdict is Verdict.PERSONALIZE and pays and added is not Verdict.PERSONALIZE:
            verdict = Verdict.COARSER
            text = f"Don't split {spell(refinement.beyond)}: the finer tasks add nothing worth having to it. " + text
    return verdict, text


def recommend(candidates: Sequence[CandidateAdvice]) -> tuple[tuple[str, ...] | None, str]:
    """The definition to use, if any, and why."""
    good = [one for one in candidates if one.verdict is Verdict.PERSONALIZE]
    if not good:
        unproven = [one for one in candidates if one.verdict is Verdict.UNPROVEN]
        text = (
            "Don't personalize by any of these tasks: none showed a gain worth having over the features on later rows."
        )
        if unproven:
            text += (
                f" For {', '.join(spell(one.keys) for one in unproven)} the log is too small to tell; "
                "ask again with more days."
            )
        return None, text
    best = max(good, key=lambda one: one.signal.total.auc)
    text = f"Personalize per {spell(best.keys)}: {interval(best.signal.total)} AUC over the features alone."
    text += _kind(best.signal)
    for one in good:
        if one is best:
            continue
        text += " " + _beside(best, one)
    return best.keys, text


def _beside(best: CandidateAdvice, other: CandidateAdvice) -> str:
    """What another definition that pays is, next to the best one."""
    beyond = {refinement.beyond: refinement.gain for refinement in other.refinements}
    if best.keys in beyond:
        added = interval(beyond[best.keys])
        return f"{spell(other.keys)} adds {added} to it: consider both definitions side by side."
    alone = f"{spell(other.keys)} pays by itself too, {interval(other.signal.total)}"
    if set(other.keys) < set(best.keys):
        return f"{alone}; the finer definition adds to it."
    return f"{alone}; how much of it is the same was not measured."


def _alone(signal: Signal, verdict: Verdict, minimum_gain: float) -> str:
    total = interval(signal.total)
    if verdict is Verdict.PERSONALIZE:
        return f"{total} AUC beyond the features.{_kind(signal)}"
    if verdict is Verdict.TOO_SMALL:
        return f"Don't: the gain is real but small, {total}, below {percent(minimum_gain)}."
    if verdict is Verdict.NOTHING and signal.total.same:
        return "Don't: nothing to gain. What a task's earlier samples say did not predict its later ones."
    if verdict is Verdict.NOTHING:
        return f"Don't: nothing to gain, {total}; a gain of {percent(minimum_gain)} is ruled out."
    if signal.total.low is None:
        return f"Don't yet: {signal.total.clusters} independent units are too few for an interval (seen: {total})."
    return f"Don't yet: no evidence of a gain, {total}; the log is too small to rule one out."


def _kind(signal: Signal) -> str:
    """Whether there is more in a task than its base rate."""
    slopes = signal.slopes
    if slopes.low is not None and slopes.low > 0:
        if signal.intercept.auc <= 0.1 * signal.total.auc:
            return f" It is taste, not base rate: slopes over item features carry {interval(slopes)}."
        return f" Base rate {interval(signal.intercept)}; tastes over item features add {interval(slopes)}."
    return (
        f" It is the task's base rate (tastes over item features add {interval(slopes)}): "
        "one stored intercept per task would bring most of it."
    )
