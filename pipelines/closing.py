"""The table a demo ends with: is personalization real, what is served, how fresh it is, and what a test says of it."""

import sys
from datetime import datetime
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from limaml.cohorts import TITLES as COHORTS
from limaml.training.evaluation import BEST_POSSIBLE, INTERCEPT, LIMAML, VANILLA, VANILLA_FINETUNED
from limaml.training.gate_page import TITLES

SHOWN = (VANILLA, VANILLA_FINETUNED, INTERCEPT, LIMAML, BEST_POSSIBLE)


def show(title: str, story: dict[str, Any]) -> None:
    """Print the closing table on standard output."""
    parts: list[Any] = []
    if "figures" in story:
        parts += [accuracy(story["figures"]), Text()]
    parts.append(facts(story))
    if "comparisons" in story:
        parts += [Text(), lifts(story["comparisons"])]
    pages = Text("\n").join(Text(f"  {page}", style="cyan", overflow="fold") for page in story["pages"])
    parts += [Text("\nPages to open", style="bold"), pages]
    # A log file or a pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(Panel(Group(*parts), title=title, title_align="left", expand=False))


def accuracy(figures: dict[str, dict[str, dict[str, float | None]]]) -> Table:
    """AUC and GAUC of each algorithm on the test rows, all of them and those whose task had samples to adapt on."""
    table = Table(title="Test rows", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("algorithm")
    for name in ("AUC", "GAUC", "AUC with support", "GAUC with support"):
        table.add_column(name, justify="right")
    for algorithm in SHOWN:
        if algorithm in figures["all"]:
            cells = [figures[part][algorithm][name] for part in ("all", "with_support") for name in ("auc", "gauc")]
            style = "bold" if algorithm == LIMAML else None
            table.add_row(TITLES[algorithm], *(_number(cell) for cell in cells), style=style)
    return table


def facts(story: dict[str, Any]) -> Table:
    """The verdict, what is served, how fresh it is, and whether monitoring is content."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if "promoted" in story:
        verdict = Text("promoted", "green") if story["promoted"] else Text("refused", "red")
        table.add_row("gate", verdict)
        for reason in story["reasons"]:
            table.add_row("", reason)
    for split, counts in story.get("tasks", {}).items():
        table.add_row(f"{split} tasks", f"{counts['tasks']:,} of {counts['rows']:,} rows")
    if embeddings := story.get("embeddings"):
        table.add_row("embeddings", f"{embeddings['tasks']:,} from {embeddings['rows']:,} recent rows")
    if release := story.get("release"):
        table.add_row("release", f"{release['name']}, model {release['model_version']}, {release['tasks']:,} tasks")
        newest = datetime.fromisoformat(release["newest_event_time"])
        minutes = (datetime.fromisoformat(release["cutoff"]) - newest).total_seconds() / 60
        table.add_row(
            "freshness",
            f"as of {release['as_of']}; newest event {newest:%Y-%m-%d %H:%M} UTC, {minutes:,.0f} min before the cutoff",
        )
    if monitoring := story.get("monitoring"):
        alarms = ", ".join(alarm["name"] for alarm in monitoring["alarms"])
        table.add_row("monitoring", Text("healthy", "green") if monitoring["healthy"] else Text(alarms, "red"))
    return table


def lifts(comparisons: list[dict[str, Any]]) -> Table:
    """CTR and WAU lift by cohort, with intervals."""
    table = Table(
        title="A/B test: LiMAML against vanilla", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for name in ("cohort", "metric"):
        table.add_column(name)
    for name in ("members", "vanilla", "LiMAML", "lift", "interval"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for row in comparisons:
        members = f"{row['control_members'] + row['treatment_members']:,}"
        name = f"{row['cohort']}, {COHORTS[row['cohort']]}" if row["cohort"] in COHORTS else "everyone"
        low, high = row["lift_low"], row["lift_high"]
        table.add_row(
            name,
            row["metric"].upper(),
            members,
            _number(row["control"]),
            _number(row["treatment"]),
            _percent(row["lift"]),
            "" if low is None or high is None else f"{_percent(low)} to {_percent(high)}",
            row["verdict"],
        )
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1%}"
