"""An advice to look at: a table for the terminal, and one self-contained page."""

from typing import Any

from rich import box
from rich.table import Table as RichTable

from limaml.pages import Cell, Page, Section, Table, new_figure
from limaml.training.advisor_words import Advice, CandidateAdvice, Verdict, interval, spell

_WORDS = {
    Verdict.PERSONALIZE: ("personalize", "good"),
    Verdict.COARSER: ("don't split", "warn"),
    Verdict.TOO_SMALL: ("don't: too small", "bad"),
    Verdict.NOTHING: ("don't: nothing to gain", "bad"),
    Verdict.UNPROVEN: ("don't yet: not shown", "warn"),
}
_STYLES = {"good": "green", "warn": "yellow", "bad": "red"}
_COLORS = {"good": "#11734b", "warn": "#8a5a00", "bad": "#b3261e"}


def terminal(advice: Advice) -> RichTable:
    """One row a candidate."""
    table = RichTable(title=f"{advice.title}: what is worth a task?", box=box.SIMPLE)
    for head in ("task", "tasks", "samples", "AUC over features", "store, a day", "verdict"):
        table.add_column(head, justify="left" if head in ("task", "verdict") else "right", no_wrap=head != "task")
    for one in advice.candidates:
        word, kind = _WORDS[one.verdict]
        table.add_row(
            spell(one.keys),
            f"{one.sizes.tasks:,}",
            f"{one.sizes.median_samples:.0f}",
            interval(one.signal.total),
            f"{_bytes(one.cost.store_bytes)}, {_seconds(one.cost.generation_core_seconds)}",
            f"[{_STYLES[kind]}]{word}[/]",
        )
    return table


def page(advice: Advice) -> Page:
    """Recommendation first, then what each candidate says, and how it was found."""
    badge = Cell("personalize", "good") if advice.recommended else Cell("don't", "warn")
    return Page(
        title=f"{advice.title}: what is worth a task?",
        lead=[advice.recommendation],
        badge=badge,
        sections=[_signals(advice), _words(advice), _tasks(advice), _costs(advice), _method(advice)],
        footer=f"Application {advice.application}; seed {advice.seed}.",
    )


def _signals(advice: Advice) -> Section:
    rows: list[list[Any]] = []
    for one in advice.candidates:
        signal = one.signal
        rows.append(
            [
                spell(one.keys),
                Cell(*_WORDS[one.verdict]),
                interval(signal.total),
                interval(signal.intercept),
                interval(signal.slopes),
                _gauc(one),
                f"{signal.covered:.0%}",
                f"{signal.total.clusters:,} ({signal.clustered_by})",
            ]
        )
    heads = ["Task", "Verdict", "AUC over features", "One intercept", "Slopes beyond it", "GAUC", "Covered", "Clusters"]
    beyond = [
        [spell(one.keys), spell(refinement.beyond), interval(refinement.gain)]
        for one in advice.candidates
        for refinement in one.refinements
    ]
    tables = [Table(heads, rows, numbers=(2, 3, 4, 5, 6))]
    if beyond:
        tables.append(Table(["Finer task", "Coarser task", "AUC beyond the coarser"], beyond, numbers=(2,)))
    return Section(
        title="Signal",
        tables=tables,
        figures=[_figure(advice)],
        notes=[
            f"Relative AUC gains on rows from {advice.effects_until} on, with intervals that hold all at once with "
            f"{advice.confidence:.0%} confidence (each at {advice.interval_level:.2%}). GAUC: mean AUC inside a task, "
            "before and after. Covered: share of those rows whose task has rows to learn from. "
            "Clusters: independent units the intervals count.",
        ],
    )


def _words(advice: Advice) -> Section:
    rows = [[spell(one.keys), one.text] for one in advice.candidates]
    return Section(title="In words", tables=[Table(["Task", "Advice"], rows)])


def _tasks(advice: Advice) -> Section:
    rows = [
        [
            spell(one.keys),
            f"{one.sizes.tasks:,}",
            f"{one.sizes.median_samples:.0f}",
            f"{one.sizes.p10_samples:.0f}",
            f"{one.sizes.p90_samples:.0f}",
            f"{one.sizes.share_under_6:.0%}",
            f"{one.sizes.share_under_25:.0%}",
        ]
        for one in advice.candidates
    ]
    heads = ["Task", "Tasks", "Samples, median", "p10", "p90", "Under 6", "Under 25"]
    return Section(title="Tasks", tables=[Table(heads, rows, numbers=range(1, 7))])


def _costs(advice: Advice) -> Section:
    rows = [
        [
            spell(one.keys),
            f"{one.cost.tasks_to_store:,}",
            _bytes(one.cost.store_bytes),
            _seconds(one.cost.generation_core_seconds),
            f"{one.cost.training_tasks:,}",
            f"{one.cost.training_rows:,}",
            f"{one.cost.steps_per_epoch:,}",
        ]
        for one in advice.candidates
    ]
    heads = ["Task", "Embeddings", "Store", "Generation a day", "Training tasks", "Rows an epoch", "Steps an epoch"]
    first = advice.candidates[0].cost
    return Section(
        title="Cost",
        tables=[Table(heads, rows, numbers=range(1, 7))],
        notes=[
            f"Assumed: {first.assumed_tasks_per_second:,.0f} embeddings a second and core, and a training step "
            f"{first.assumed_step_over_vanilla:g} times a vanilla step on the same rows (docs/benchmarks.md). Store: "
            "values alone, keys and pages come on top."
        ],
    )


def _method(advice: Advice) -> Section:
    sampled = (
        "all rows were read"
        if advice.sampled_fraction == 1
        else f"{advice.sampled_fraction:.1%} of the entities were sampled by hash, with all their rows"
    )
    return Section(
        title="How it was found",
        text=[
            f"{advice.rows:,} rows; {sampled}; {advice.skipped_rows:,} without label, time or key were left out.",
            f"A features-only model (boosted trees) learned from rows before {advice.features_until}. Per-task "
            "effects, an intercept and slopes over a few directions of the features that vary inside a task, were "
            f"estimated up to {advice.effects_until}, and judged on rows from then until {advice.test_until}. How far "
            f"they are shrunk was chosen inside the middle part, with a gap of {advice.gap_days} day(s) with rows, "
            "never on the rows judged.",
            "These effects stand in for what LiMAML would learn: they tell whether there is something to adapt to, not "
            "how much a trained network will reach.",
        ],
    )


def _figure(advice: Advice) -> Any:
    figure = new_figure(height=0.7 + 0.35 * len(advice.candidates))
    axes = figure.subplots()
    for row, one in enumerate(advice.candidates):
        gain, color = one.signal.total, _COLORS[_WORDS[one.verdict][1]]
        axes.plot(100 * gain.auc, row, "o", color=color)
        if gain.low is not None and gain.high is not None:
            axes.plot([100 * gain.low, 100 * gain.high], [row, row], color=color, linewidth=2)
    axes.axvline(0, color="#8a94a3", linewidth=1)
    axes.axvline(100 * advice.minimum_gain, color="#8a94a3", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(advice.candidates)), [spell(one.keys) for one in advice.candidates])
    axes.set_ylim(len(advice.candidates) - 0.5, -0.5)
    axes.set_xlabel("relative AUC gain over features alone (%); dotted: worth having")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _gauc(one: CandidateAdvice) -> str:
    before, after = one.signal.features_gauc, one.signal.gauc
    return "–" if before is None or after is None else f"{before:.4f} → {after:.4f}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 3600 else f"{seconds / 3600:,.1f} h"
