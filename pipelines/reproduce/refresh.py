"""Daily against weekly refresh: the same θ and the same rows, embeddings of every morning or of the week's first."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, timedelta

import numpy as np

from limaml.config import Application
from limaml.errors import DataError
from limaml.manifest import read_manifest
from limaml.model import load_model
from limaml.training import evaluation
from limaml.training.evaluation import Scored, Scorer
from limaml.training.metrics import evaluate
from limaml.windows import TaskSplit
from pipelines.reproduce.bench import Bench, Figures
from pipelines.reproduce.logs import Log
from pipelines.reproduce.variants import BASE, BASELINES

DAILY, WEEKLY, ONCE = "limaml_daily", "limaml_weekly", "limaml_once"
WEEK = 7
TITLES = {
    DAILY: "LiMAML, refreshed every day",
    WEEKLY: "LiMAML, refreshed every week",
    ONCE: "LiMAML, never refreshed",
}
AGES = {f"weekly_age_{age}": f"day {age + 1} of the week" for age in range(WEEK)}


def measure(log: Log, application: Application) -> Figures:
    """Every day of the test window, scored on embeddings of that day and of the day its week began.

    Raises:
        DataError: no day of the test window has rows.
    """
    bench = Bench(log, application)
    test = bench.splits["test"]
    model = bench.trained(BASE, application)
    limaml = load_model(model["uri"], application)
    controls = tuple(output for output in BASE.outputs if output.role in BASELINES)
    baselines = bench.scorers(replace(BASE, outputs=controls), application, test)

    def at(day: date) -> Scorer:
        return evaluation.served(limaml, bench.embeddings(model, _day(test, day), application), application.store.dtype)

    assert test.boundary is not None, "the test split has a boundary"
    days = [day for day in test.window.days if day >= test.boundary]
    scored: list[Scored] = []
    figures: Figures = {}
    by_age: dict[str, list[Scored]] = {}
    for number, day in enumerate(days):
        tasks = bench.tasks(_day(test, day))
        if not read_manifest(tasks, "task_set").counts["query_rows"]:
            continue
        scorers = {**baselines, DAILY: at(day), WEEKLY: at(days[number - number % WEEK])}
        if len(days) > WEEK:
            scorers[ONCE] = at(days[0])
        scored.append(bench.score(scorers, _day(test, day)))
        by_age.setdefault(f"weekly_age_{number % WEEK}", []).append(scored[-1])
    if not scored:
        raise DataError(f"no rows from {days[0]} to {days[-1]} to score")
    figures |= bench.figures(together(scored), test)
    for name, parts in sorted(by_age.items()):
        whole = together(parts)
        figures |= {(name, a): evaluate(whole.task, whole.label, score) for a, score in whole.scores.items()}
    return figures


def _day(test: TaskSplit, day: date) -> TaskSplit:
    """One day's rows, and the samples that a refresh on its morning would have."""
    assert test.boundary is not None, "the test split has a boundary"
    lookback = test.boundary - test.window.start
    window = test.window.model_copy(update={"start": day - lookback, "end": day + timedelta(days=1)})
    return TaskSplit(name="refresh", window=window, boundary=day)


def together(parts: Iterable[Scored]) -> Scored:
    """Several days' rows as one set. A task is one of each day: what is ranked, at one moment, is a day's rows."""
    parts = list(parts)
    starts = np.cumsum([0, *(len(part.task_ids) for part in parts)])
    return Scored(
        np.concatenate([part.label for part in parts]),
        np.concatenate([part.task + start for part, start in zip(parts, starts, strict=False)]),
        np.concatenate([part.samples for part in parts]),
        [task for part in parts for task in part.task_ids],
        {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores},
    )
