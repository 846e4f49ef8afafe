"""Measure a log over several seeds: the stages of a training run, θ and the baseline trained anew for each seed.

Data, task sets and splits are the same for all seeds, so differences between algorithms are paired.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from scipy import stats

from limaml import storage
from limaml.config import Application
from limaml.errors import ConfigError
from limaml.windows import training_splits, training_window
from limaml.workspace import Workspace
from pipelines.run import bring_in, day_after_newest

log = logging.getLogger(__name__)

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Row:
    """One algorithm on one slice over all seeds.

    `gain` is the relative AUC gain over vanilla and `over_intercept` the one over the intercept control, each the mean
    of paired differences with the half-width of its Student interval (None where a seed has no value).
    """

    slice: str
    algorithm: str
    auc: float | None
    gauc: float | None
    gain: tuple[float, float] | None
    over_intercept: tuple[float, float] | None
    gauc_gain: tuple[float, float] | None


def reproduce(
    application: Application, workspace: str, data: str, seeds: int, run_date: date | None = None
) -> dict[str, Any]:
    """Train and judge `seeds` times; returns the table, and writes it as JSON and Markdown into the workspace.

    The workspace must be one of its own: MLflow's champion in it is not compared, since every pair is judged alone.

    Raises:
        ConfigError: fewer than two seeds.
    """
    if seeds < 2:
        raise ConfigError(f"--seeds {seeds}: an interval over seeds needs at least 2")
    root = bring_in(data, application, workspace)
    as_of = run_date or day_after_newest(root)
    tables = list(_tables(application, workspace, root, as_of, seeds))
    rows = _summarize(tables)
    place = Workspace(storage.normalize(workspace), application.name)
    result = {
        "application": application.name,
        "run_date": as_of.isoformat(),
        "seeds": seeds,
        "table": [vars(row) for row in rows],
    }
    folder = place.run(as_of, "reproduce")
    storage.write_bytes(storage.join(folder, "table.json"), json.dumps(result, indent=1).encode() + b"\n")
    storage.write_bytes(storage.join(folder, "table.md"), markdown(rows).encode())
    return result | {"markdown": storage.join(folder, "table.md")}


def _tables(
    application: Application, workspace: str, data: str, as_of: date, seeds: int
) -> Iterator[dict[tuple[str, str], dict[str, Any]]]:
    from limaml.data.tasks import group_tasks
    from limaml.data.validation import validate
    from limaml.online.embeddings import generate_embeddings
    from limaml.training.gate import judge
    from limaml.training.train import train_model

    place = Workspace(storage.normalize(workspace), application.name)
    window = training_window(application.windows, as_of)
    validate(data, place.validated(window), application, window)
    splits = training_splits(application.windows, as_of)
    for split in splits.values():
        group_tasks(place.validated(window), place.tasks(split), application, split)
    train, validation, test = (place.tasks(splits[name]) for name in ("train", "validation", "test"))
    boundary = splits["test"].boundary
    assert boundary is not None, "the test split has a boundary"
    for seed in range(seeds):
        log.info("seed %d of %d", seed + 1, seeds)
        seeded = application.model_copy(update={"training": application.training.model_copy(update={"seed": seed})})
        tracking = place.tracking_uri()
        model = train_model(train, validation, place.model(""), seeded, tracking, as_of).details
        embeddings = place.embeddings(model["model_version"], boundary)
        generate_embeddings(model["uri"], test, embeddings, seeded, boundary)
        output = place.decision(model["model_version"])
        decision = judge(
            model["uri"], embeddings, validation, test, output, seeded, tracking, as_of, data, raise_on_refusal=False
        )
        yield {(row["slice"], row["algorithm"]): row for row in decision.details["table"]}


def _summarize(tables: list[dict[tuple[str, str], dict[str, Any]]]) -> list[Row]:
    rows = []
    for name, algorithm in tables[0]:
        if not all((name, algorithm) in table for table in tables):
            continue  # a champion is there from the second seed on only, and is no part of this table

        def values(other: str, metric: str, name: str = name) -> list[float | None]:
            return [table[name, other][metric] for table in tables]

        def gain(base: str, metric: str, algorithm: str = algorithm) -> tuple[float, float] | None:
            return None if algorithm == base else _interval(values(algorithm, metric), values(base, metric))

        rows.append(
            Row(
                name,
                algorithm,
                _mean(values(algorithm, "auc")),
                _mean(values(algorithm, "gauc")),
                gain("vanilla", "auc"),
                gain("vanilla_intercept", "auc"),
                gain("vanilla", "gauc"),
            )
        )
    return rows


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _interval(values: list[float | None], base: list[float | None]) -> tuple[float, float] | None:
    gains = [(v - b) / b for v, b in zip(values, base, strict=True) if v is not None and b is not None]
    if len(gains) < len(values):
        return None
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(gains) - 1) * np.std(gains, ddof=1) / np.sqrt(len(gains))
    return float(np.mean(gains)), float(half)


def markdown(rows: list[Row]) -> str:
    """The table as Markdown: one block of rows a slice."""

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    def gain(value: tuple[float, float] | None) -> str:
        return "" if value is None else f"{value[0]:+.2%} ± {value[1]:.2%}"

    lines = [
        "| rows | algorithm | AUC | gain over vanilla | gain over the intercept | GAUC | GAUC gain over vanilla |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [row.slice, row.algorithm, number(row.auc), gain(row.gain), gain(row.over_intercept), number(row.gauc)]
        lines.append("| " + " | ".join([*cells, gain(row.gauc_gain)]) + " |")
    return "\n".join(lines) + "\n"
