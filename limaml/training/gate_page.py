"""The gate's decision as a page: the verdict and its reasons first, then every figure it rests on."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from limaml import pages
from limaml.config import Application
from limaml.training import slices
from limaml.training.evaluation import (
    BEST_POSSIBLE,
    CHAMPION,
    INTERCEPT,
    LIMAML,
    LIMAML_UNADAPTED,
    VANILLA,
    VANILLA_FINETUNED,
    Scored,
)

if TYPE_CHECKING:
    from limaml.training.gate import Check

TITLES = {
    VANILLA: "vanilla",
    VANILLA_FINETUNED: "vanilla, fine-tuned per task",
    INTERCEPT: "vanilla + one intercept per task",
    LIMAML: "LiMAML, as served",
    LIMAML_UNADAPTED: "LiMAML, not adapted",
    CHAMPION: "champion, adapted on the same rows",
    BEST_POSSIBLE: "best possible (simulator's truth)",
}


def roc_points(label: npt.NDArray, score: npt.NDArray, points: int = 100) -> dict[str, list[float]]:
    """About `points` points of a ROC curve: false positive rate, true positive rate, threshold (descending)."""
    order = np.argsort(-score, kind="stable")
    sorted_score, sorted_label = score[order], label[order]
    last_of_tie = np.r_[sorted_score[1:] != sorted_score[:-1], True]
    true_positive = np.cumsum(sorted_label)[last_of_tie] / max(sorted_label.sum(), 1)
    false_positive = np.cumsum(1 - sorted_label)[last_of_tie] / max((1 - sorted_label).sum(), 1)
    threshold = sorted_score[last_of_tie]
    keep = np.unique(np.linspace(0, len(threshold) - 1, min(points, len(threshold))).astype(int))
    return {
        "fpr": [0.0, *false_positive[keep].tolist()],
        "tpr": [0.0, *true_positive[keep].tolist()],
        "threshold": [1.0, *threshold[keep].tolist()],
    }


def decision_page(
    application: Application,
    version: str,
    promoted: bool,
    checks: "list[Check]",
    table: list[slices.Figure],
    scored: Scored,
) -> pages.Page:
    """The page of one decision."""
    failed = [check.text for check in checks if not check.passed]
    lead = (
        f"Model {version} and the embeddings made with it earned promotion."
        if promoted
        else f"Model {version} was refused and the champion stays: {'; '.join(failed)}."
    )
    conditions = pages.Table(
        ["condition", "measured", ""],
        [
            [
                check.name,
                check.text,
                pages.Cell("holds", "good") if check.passed else pages.Cell("fails", "bad"),
            ]
            for check in checks
        ],
    )
    sections = [pages.Section("Conditions", tables=[conditions])]
    for name in dict.fromkeys(figure.slice for figure in table):
        chosen = [figure for figure in table if figure.slice == name]
        sections.append(pages.Section(slices.title(name).capitalize(), tables=[_figures(chosen)]))
    sections[1] = pages.Section(
        sections[1].title,
        tables=sections[1].tables,
        figures=[_curves(scored)],
        notes=[
            "AUC gains are relative to vanilla on the same rows. GAUC is the mean AUC inside a task, over tasks with "
            "both classes: a gain that is only a member's base rate leaves it where it was, as the one-intercept "
            "control shows. Calibration is the mean score over the label rate."
        ],
    )
    badge = pages.Cell("promoted", "good") if promoted else pages.Cell("refused", "bad")
    return pages.Page(f"Gate of {application.title}", [lead], badge, sections, f"Model {version}")


def _figures(chosen: list[slices.Figure]) -> pages.Table:
    def number(value: float | None, form: str = ".4f") -> str:
        return "–" if value is None else format(value, form)

    rows: list[list[Any]] = [
        [
            TITLES[figure.algorithm],
            number(figure.metrics.auc),
            "" if figure.algorithm == VANILLA else number(figure.gain, "+.2%"),
            number(figure.metrics.gauc),
            number(figure.metrics.log_loss),
            number(figure.metrics.calibration, ".3f"),
        ]
        for figure in chosen
    ]
    metrics = chosen[0].metrics
    head = f"{metrics.rows:,} rows, {metrics.tasks:,} tasks"
    return pages.Table([head, "AUC", "gain", "GAUC", "log loss", "calibration"], rows, (1, 2, 3, 4, 5))


def _curves(scored: Scored) -> Any:
    figure = pages.new_figure(8.5, 3.6)
    roc, calibration = figure.subplots(1, 2)
    for name in (VANILLA, INTERCEPT, LIMAML):
        points = roc_points(scored.label, scored.scores[name])
        roc.plot(points["fpr"], points["tpr"], label=TITLES[name])
    roc.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":")
    roc.set(title="ROC, all rows", xlabel="false positive rate", ylabel="true positive rate")
    roc.legend(loc="lower right", fontsize="small")
    for name in (VANILLA, LIMAML):
        order = np.argsort(scored.scores[name], kind="stable")
        bins = [part for part in np.array_split(order, 10) if len(part)]
        mean = [float(scored.scores[name][part].mean()) for part in bins]
        calibration.plot(mean, [float(scored.label[part].mean()) for part in bins], marker="o", label=TITLES[name])
    limits = [0, max(calibration.get_xlim()[1], calibration.get_ylim()[1])]
    calibration.plot(limits, limits, color="gray", linewidth=0.8, linestyle=":")
    calibration.set(title="Calibration, tenths by score", xlabel="mean score", ylabel="label rate")
    calibration.legend(loc="upper left", fontsize="small")
    return figure
