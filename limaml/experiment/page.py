"""The A/B report as one HTML page: verdict first, then the split, the table, the picture, the small print."""

from typing import Any

from limaml.cohorts import COHORTS, TITLES
from limaml.experiment.metrics import EVERYONE, METRICS, WAU
from limaml.experiment.report import NAMES, ABReport, Comparison, interval_text, p_text, percent, why_broken
from limaml.pages import Cell, Page, Section, Table, new_figure

_KINDS = {"up": "good", "down": "bad", "no evidence": "", "not tested": "warn"}

_REASONS = {
    "fresh": "personalized by an embedding in time",
    "stale": "personalized by an embedding past its age limit",
    "zero_shot": "not personalized: no embedding, meta features alone",
    "default": "not personalized: neither embedding nor meta features",
}


def page(report: ABReport) -> Page:
    """The report as a page."""
    sections = [_split(report)]
    if report.split.passed:
        sections += [_results(report), _reasons(report)]
    return Page(
        title=f"{report.title}: A/B test",
        badge=_badge(report),
        lead=[
            f"LiMAML (treatment) against the vanilla model (control), {report.start} to {report.end}, "
            f"{report.split.control + report.split.treatment:,} members, {report.impressions:,} impressions.",
            *report.conclusions(),
        ],
        sections=[*sections, _limits(report), _methods(report)],
        footer=f"Application {report.application}, test {report.experiment}, salt {report.salt}.",
    )


def _badge(report: ABReport) -> Cell:
    if not report.split.passed:
        return Cell("split broken", "bad")
    found = {c.verdict for metric in METRICS if (c := report.find(EVERYONE, metric))}
    if {"up", "down"} <= found:
        return Cell("mixed", "warn")
    word = next((word for word in ("down", "up", "no evidence") if word in found), "not tested")
    return Cell(word, _KINDS[word])


def _split(report: ABReport) -> Section:
    split = report.split
    total = split.control + split.treatment
    rows = [
        [
            "control",
            f"{split.control:,}",
            percent(split.control / total, 1, sign=False),
            percent(1 - split.treatment_fraction, 1, sign=False),
        ],
        [
            "treatment",
            f"{split.treatment:,}",
            percent(split.treatment / total, 1, sign=False),
            percent(split.treatment_fraction, 1, sign=False),
        ],
    ]
    verdict = (
        "Members were split as planned, so the arms can be compared" if split.passed else why_broken(split)
    ) + f" (p = {p_text(split.p_value)}, members in both arms: {split.in_both_arms:,})."
    return Section(
        title="Is the split sound?",
        text=[verdict],
        tables=[Table(["arm", "members", "share", "planned"], [[*row] for row in rows], numbers=(1, 2, 3))],
    )


def _results(report: ABReport) -> Section:
    headers = [
        "cohort",
        "metric",
        "members",
        "control",
        "treatment",
        "relative lift",
        "interval",
        "p, adjusted",
        "verdict",
    ]
    rows = [_row(c) for cohort in (EVERYONE, *COHORTS) for m in METRICS if (c := report.find(cohort, m))]
    definitions = "; ".join(f"{cohort}: {TITLES[cohort]}" for cohort in COHORTS)
    return Section(
        title="What changed, by cohort",
        tables=[Table(headers, rows, numbers=(2, 3, 4, 5, 6, 7))],
        figures=[_forest(report)] if report.tested else [],
        notes=[
            f"Cohorts, the first that fits, as of {report.start}: {definitions}.",
            "CTR: clicks per impression. WAU: share of members who visited, " + _period(report) + ".",
        ],
    )


def _period(report: ABReport) -> str:
    if report.week_days < 7:
        return f"over the experiment's {report.week_days} days, since it is shorter than a week"
    return "averaged over " + (f"{report.weeks} whole weeks" if report.weeks > 1 else "one whole week")


def _row(c: Comparison) -> list[Any]:
    members = f"{c.control_members + c.treatment_members:,}"
    if c.verdict == "not tested":
        return [c.cohort, NAMES[c.metric], members, "–", "–", "–", "–", "–", Cell(f"not tested: {c.note}", "warn")]
    seen = percent(c.minimum_detectable, sign=False)
    word = f"no evidence; smallest effect we could have seen: {seen}" if c.verdict == "no evidence" else c.verdict
    return [
        c.cohort,
        NAMES[c.metric],
        members,
        percent(c.control, 2, sign=False),
        percent(c.treatment, 2, sign=False),
        percent(c.lift),
        interval_text(c),
        p_text(c.p_adjusted),
        Cell(word + (f" ({c.note})" if c.note else ""), _KINDS[c.verdict]),
    ]


def _forest(report: ABReport) -> Any:
    colors = {"up": "#11734b", "down": "#b3261e"}
    cohorts = [cohort for cohort in (EVERYONE, *COHORTS) if any(c.cohort == cohort for c in report.tested)]
    figure = new_figure(8.0, 1.1 + 0.42 * len(cohorts))
    for axis, metric in zip(figure.subplots(1, len(METRICS), sharey=True), METRICS, strict=True):
        axis.axvline(0, color="#8a94a3", linewidth=1)
        for row, cohort in enumerate(cohorts):
            c = report.find(cohort, metric)
            if c is None or c.lift is None:
                continue
            color = colors.get(c.verdict, "#5d6878")
            axis.plot(100 * c.lift, row, "s" if cohort == EVERYONE else "o", color=color, markersize=6)
            if c.lift_low is not None and c.lift_high is not None:
                axis.plot([100 * c.lift_low, 100 * c.lift_high], [row, row], color=color, linewidth=2)
        axis.set_yticks(range(len(cohorts)), cohorts)
        axis.set_ylim(len(cohorts) - 0.5, -0.5)
        axis.set_title(f"{NAMES[metric]}, relative lift (%)", fontsize=10)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False)
    return figure


def _reasons(report: ABReport) -> Section:
    total = sum(report.reasons.values())
    known = {reason: n for reason in _REASONS if (n := report.reasons.get(reason))}
    others = {reason: n for reason, n in report.reasons.items() if reason not in _REASONS}
    rows = [
        [reason, _REASONS.get(reason, ""), f"{n:,}", percent(n / total, 1, sign=False)]
        for reason, n in (known | others).items()
    ]
    return Section(
        title="How personal was the treatment?",
        tables=[Table(["reason", "meaning", "impressions", "share"], rows, numbers=(2, 3))],
        notes=["The lift above is an average over all of these; only the personalized share can carry it."],
    )


def _limits(report: ABReport) -> Section:
    texts = [
        "A verdict of “no evidence” says that this experiment could not tell, not that the models are equal.",
        "The figures hold for these days and members; they say nothing about novelty wearing off or seasons.",
        "Only members who were shown something are in the test, so WAU is the share among those the product reached.",
        "An interval is for its own line alone; the verdict also weighs that several lines were tested, so an interval "
        "may exclude zero where the verdict is “no evidence”.",
        "The result was computed once, after the last day. Looking daily and stopping at a good day would find effects "
        "that are not there.",
    ]
    if any(c.cohort != EVERYONE for c in report.tested):
        texts.append(
            "Cohorts were compared with zero, not with each other: one up and another not is no difference yet."
        )
    return Section(title="What these numbers do not say", text=texts)


def _methods(report: ABReport) -> Section:
    return Section(
        title="For analysts",
        notes=[
            "Unit: member, by a salted BLAKE2b hash. Ratios of member totals with delta-method variances; relative "
            f"intervals by Fieller's theorem at {percent(report.confidence, 0, sign=False)}; two-sided normal tests; "
            f"Holm over the {len(report.tested)} tests of the table; split check by chi-square; smallest effect seen "
            "at 80 % power and the level of Holm's first step. " + f"{NAMES[WAU]} is clustered by member.",
        ],
    )
