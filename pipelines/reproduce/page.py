"""A table as Markdown, from the same plain values as its JSON."""

from collections.abc import Iterator
from typing import Any

from limaml.cohorts import COHORTS
from limaml.training import slices
from pipelines.reproduce.refresh import AGES

Plain = dict[str, Any]
COMPARED = (slices.ALL, slices.WITH_SUPPORT, "samples_1_5", *AGES)


def markdown(result: Plain) -> str:
    """A table to read: the paper's words, a block of rows a task definition, what is compared. The JSON says more."""
    lines = [f"### {result['name']}: {result['title']}", ""]
    lines += [f"{result['application']}, {result['data']}, {result['seeds']} seeds. Paper: {result['paper']}.", ""]
    hidden = {"samples_6_24"} | (set() if result["lifts"] else set(COHORTS))
    rows = [row for row in result["table"] if row["slice"] not in hidden]
    definitions = list(dict.fromkeys(row["definition"] for row in rows))
    for definition in definitions:
        if len(definitions) > 1:
            lines += [f"Tasks by {definition}:", ""]
        lines += [*_rows([row for row in rows if row["definition"] == definition]), ""]
    if result["comparisons"]:
        chosen = [each for each in result["comparisons"] if each["slice"] in COMPARED]
        lines += [*_comparisons(chosen, len(definitions) > 1), ""]
    if result["costs"]:
        lines += ["| training step of | over vanilla | paper |", "|---|--:|--:|"]
        for each in result["costs"]:
            lines.append(f"| {each['algorithm']} | {_ratio(each['ratio'])} | {each['paper']:.2f} |")
        lines += [""]
    if result["lifts"]:
        lines += ["| A/B test: cohort | metric | lift |", "|---|---|--:|"]
        lines += [f"| {each['cohort']} | {each['metric']} | {percent(each['lift'])} |" for each in result["lifts"]]
        lines += [""]
    return "\n".join(lines)


def _rows(rows: list[Plain]) -> Iterator[str]:
    has_truth = any(row["gap_closed"] for row in rows)
    has_paper = any(row["paper"] is not None for row in rows)
    columns = ["AUC", "gain over vanilla", *(["paper"] if has_paper else []), "over the intercept", "GAUC"]
    columns += ["GAUC gain over vanilla", *(["gap closed"] if has_truth else [])]
    yield "| rows | algorithm | " + " | ".join(columns) + " |"
    yield "|---|---|" + "--:|" * len(columns)
    before = ""
    for row in rows:
        cells = ["" if row["slice"] == before else slice_title(row["slice"]), row["title"], _number(row["auc"])]
        before = row["slice"]
        cells.append(percent(row["gain"]))
        if has_paper:
            cells.append("" if row["paper"] is None else f"{row['paper']:+.2%}")
        cells += [percent(row["gain_over_intercept"]), _number(row["gauc"]), percent(row["gauc_gain"])]
        if has_truth:
            cells.append(percent(row["gap_closed"], 0))
        yield "| " + " | ".join(cells) + " |"


def _comparisons(comparisons: list[Plain], by_definition: bool) -> Iterator[str]:
    yield "| rows | compared | AUC gain | GAUC gain | paper |"
    yield "|---|---|--:|--:|--:|"
    for each in comparisons:
        name = slice_title(each["slice"]) + (f", by {each['definition']}" if by_definition else "")
        paper = "" if each["paper"] is None else f"{each['paper']:+.2%}"
        what = f"{each['algorithm']} over {each['over']}"
        yield f"| {name} | {what} | {percent(each['gain'])} | {percent(each['gauc_gain'])} | {paper} |"


def slice_title(name: str) -> str:
    """A slice in words; days of a week between refreshes are slices too."""
    return AGES[name] if name in AGES else slices.title(name)


def percent(interval: Plain | None, digits: int = 2) -> str:
    """An interval as a percentage, +1.47% ± 0.12%; empty where there is none."""
    if interval is None:
        return ""
    half = "" if interval["high"] is None else f" ± {interval['high'] - interval['mean']:.{digits}%}"
    return f"{interval['mean']:+.{digits}%}{half}"


def _ratio(interval: Plain | None) -> str:
    if interval is None:
        return "–"
    return f"{interval['mean']:.2f}" + (
        "" if interval["high"] is None else f" ± {interval['high'] - interval['mean']:.2f}"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
