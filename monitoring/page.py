"""Monitoring as a page: the verdict first, then what to do, then every figure it rests on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from limaml import pages
from limaml.config import Application
from monitoring.checks import Check
from monitoring.drift import Drift
from monitoring.embedding_drift import EmbeddingSummary

_SHOWN_FEATURES = 30


def monitoring_page(
    application: Application,
    details: dict[str, Any],
    checks: Sequence[Check],
    features: Sequence[Drift],
    embeddings: EmbeddingSummary,
    previous: EmbeddingSummary | None,
) -> pages.Page:
    """The page of one day; `details` are those of the manifest."""
    failed = [check for check in checks if not check.passed]
    sections = [
        *([_alarms(failed)] if failed else []),
        pages.Section("What is served", tables=[_served(details)], notes=_served_notes(details)),
        pages.Section("Checks", tables=[_checks(checks)]),
        pages.Section(
            "Features and scores",
            text=["Recent rows against those the model was trained on."],
            figures=[_psi_figure(application, features)],
            notes=[
                "PSI, the population stability index, over all rows of both windows. A limit rises above its threshold "
                "where so few tasks or rows may show more by chance; such bars have a second mark.",
            ],
        ),
        pages.Section(
            "Embeddings",
            figures=[_norm_figure(embeddings, previous)],
            notes=[_embedding_note(details, previous)],
        ),
    ]
    alarmed = f"{len(failed)} alarm{'s' if len(failed) > 1 else ''}"
    return pages.Page(
        title=f"Monitoring: {application.title}",
        badge=pages.Cell(alarmed, "bad") if failed else pages.Cell("healthy", "good"),
        lead=[_verdict(details, failed, len(checks))],
        sections=sections,
        footer=f"{application.name}, {details['as_of']}; ages at {details['now']}. Times are UTC.",
    )


def _verdict(details: dict[str, Any], failed: Sequence[Check], checks: int) -> str:
    if not failed and _is_past(details):
        return f"All {checks} checks passed. A release of a later day serves: this day was looked at for drift alone."
    if not failed:
        served = details["served"]
        return (
            f"All {checks} checks passed. {served['found_tasks']:,} of {served['active_tasks']:,} active tasks find "
            f"an embedding; what the store returned for {details['canary']['tasks']:,} of them is what the model makes."
        )
    worst = "; ".join(f"{check.title}: {check.shown} ({check.allowed})" for check in failed[:3])
    more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
    return f"{len(failed)} of {checks} checks failed. {worst}{more}."


def _is_past(details: dict[str, Any]) -> bool:
    """Whether what serves is of a later day than the one looked at."""
    return details["release"] is not None and details["release"]["as_of"] > details["as_of"]


def _alarms(failed: Sequence[Check]) -> pages.Section:
    rows = [[pages.Cell(check.title, "bad"), check.shown, check.allowed, check.what_to_do] for check in failed]
    return pages.Section("Alarms", tables=[pages.Table(["alarm", "value", "allowed", "what to do"], rows, (1,))])


def _checks(checks: Sequence[Check]) -> pages.Table:
    rows = [
        [
            check.title,
            check.shown,
            check.allowed,
            pages.Cell("ok", "good") if check.passed else pages.Cell("alarm", "bad"),
        ]
        for check in checks
    ]
    return pages.Table(["check", "value", "allowed", "verdict"], rows, (1,))


def _served(details: dict[str, Any]) -> pages.Table:
    release, served, canary = details["release"], details["served"], details["canary"]
    rows = [["Model", details["model_version"]]]
    if release is not None:
        rows += [
            ["Release", f"{release['number']} (generation {release['generation']})"],
            ["Computed for", release["as_of"]],
            ["Newest event it has seen", release["newest_event_time"]],
            ["Embeddings in the release", f"{release['tasks']:,}"],
        ]
    rows.append(["Active tasks", f"{served['active_tasks']:,}"])
    if not _is_past(details):
        rows.append(["… that find an embedding", f"{served['found_tasks']:,}"])
    if served["found_tasks"]:
        quartiles = "{samples_p25:.0f} / {samples_p50:.0f} / {samples_p75:.0f}".format(**served)
        rows += [
            ["… whose embedding has not seen their newest event", f"{served['behind_ratio']:.1%}"],
            ["Samples behind an embedding, quartiles", quartiles],
            ["Canary: tasks made anew", f"{canary['tasks']:,}"],
            ["Canary: largest difference, relative above 1", f"{canary['largest_error']:.1e}"],
        ]
    if scores := details["scores"]:
        rows += [
            ["Mean score, recent / at training", f"{scores['mean_recent']:.4f} / {scores['mean_reference']:.4f}"],
            [
                "Label rate, recent / at training",
                f"{scores['label_rate_recent']:.4f} / {scores['label_rate_reference']:.4f}",
            ],
        ]
    return pages.Table(["figure", "value"], rows)


def _served_notes(details: dict[str, Any]) -> list[str]:
    if not details["scores"]:
        return []
    return ["Scores and label rates are of a sample of whole tasks, adapted on the same rows that are scored."]


def _psi_figure(application: Application, features: Sequence[Drift]) -> Any:
    threshold = application.monitoring.feature_psi
    shown = sorted(features, key=lambda each: each.excess(threshold))[-_SHOWN_FEATURES:]
    figure = pages.new_figure(height=1.0 + 0.22 * len(shown))
    axes = figure.subplots()
    values = [each.psi if np.isfinite(each.psi) else 0.0 for each in shown]
    colors = ["#b3261e" if not each.psi <= each.limit(threshold) else "#2457c5" for each in shown]
    axes.barh(range(len(shown)), values, color=colors, height=0.65)
    axes.axvline(threshold, color="#5d6878", linestyle="--", linewidth=1, label=f"threshold {threshold:g}")
    for place, each in enumerate(shown):
        if each.sampling > threshold:
            axes.plot([each.sampling] * 2, [place - 0.4, place + 0.4], color="#1d2430", linewidth=1.5)
    axes.set_yticks(range(len(shown)), [each.name for each in shown])
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlabel("PSI, recent against training")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _norm_figure(embeddings: EmbeddingSummary, previous: EmbeddingSummary | None) -> Any:
    figure = pages.new_figure()
    axes = figure.subplots()
    everything = embeddings.norms if previous is None else np.concatenate([embeddings.norms, previous.norms])
    edges = np.linspace(0, max(float(np.quantile(everything, 0.999)), 1e-3), 41)
    if previous is not None:
        axes.hist(previous.norms, edges, density=True, histtype="step", color="#5d6878", label="the day before")
    axes.hist(embeddings.norms, edges, density=True, color="#2457c5", alpha=0.6, label="this release")
    axes.set_xlabel("length of an embedding")
    axes.set_ylabel("density of tasks")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _embedding_note(details: dict[str, Any], previous: EmbeddingSummary | None) -> str:
    effects = details["embeddings"]["against_previous"]
    if previous is None or effects is None:
        return "No embeddings of the same model from the day before: only zeros are checked."
    return (
        f"Against the day before: mean moved by {effects['shift']:.3f} spreads (the coordinate that moved most by "
        f"{effects['coordinate_shift']:.3f} of its own), length × {effects['norm_ratio']:.3f}, spread × "
        f"{effects['spread_ratio']:.3f}, cosine {effects['cosine']:.3f} over "
        f"{effects['common_tasks']:,.0f} tasks in both."
    )
