"""From one figure per seed to a table: means, and Student intervals of differences paired over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from limaml.training.evaluation import BEST_POSSIBLE, INTERCEPT, VANILLA
from limaml.training.metrics import Metrics, relative_gain
from limaml.training.slices import ALL

CONFIDENCE = 0.95
Values = Sequence[float | None]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its Student interval; no bounds from a single seed."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Values) -> "Interval | None":
        """The interval of values, or None where one of them is missing."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        mean = float(np.mean(known))
        if len(known) == 1:
            return cls(mean, None, None)
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * np.std(known, ddof=1) / np.sqrt(len(known))
        return cls(mean, mean - float(half), mean + float(half))


@dataclass(frozen=True)
class Row:
    """One algorithm on one slice, over all seeds. Gains are relative, (a − b) / b, paired by seed.

    Attributes:
        definition: the key columns of the tasks.
        slice, algorithm: names, as in the gate's decisions.
        title: the algorithm in words.
        rows, tasks: of the slice, mean over seeds.
        auc, gauc: means over seeds; None where a seed has none (one class only).
        gain, gauc_gain: over vanilla on the same slice.
        gain_over_intercept: over one intercept per task on top of vanilla.
        gap_closed: share of the distance from vanilla's AUC to the best possible, where the truth is known.
        paper: the paper's figure for `gain`, where it is known.
        auc_by_seed, gauc_by_seed: what the means are of.
    """

    definition: str
    slice: str
    algorithm: str
    title: str
    rows: int
    tasks: int
    auc: float | None
    gauc: float | None
    gain: Interval | None
    gauc_gain: Interval | None
    gain_over_intercept: Interval | None
    gap_closed: Interval | None
    paper: float | None
    auc_by_seed: list[float | None]
    gauc_by_seed: list[float | None]


@dataclass(frozen=True)
class Comparison:
    """One algorithm's AUC against another's on one slice, paired by seed, beside the paper's figure where known."""

    definition: str
    slice: str
    algorithm: str
    over: str
    gain: Interval | None
    gauc_gain: Interval | None
    paper: float | None


class Seeds:
    """One task definition's figures, seed by seed."""

    def __init__(self, definition: str, figures: Sequence[dict[tuple[str, str], Metrics]]) -> None:
        self.definition, self.figures = definition, figures
        self.keys = [key for key in figures[0] if all(key in each for each in figures)]

    def values(self, name: str, algorithm: str, metric: str) -> list[float | None]:
        """A metric by seed; None for a seed that lacks it."""
        found = [each.get((name, algorithm)) for each in self.figures]
        return [None if metrics is None else getattr(metrics, metric) for metrics in found]

    def gain(self, name: str, algorithm: str, over: str, metric: str = "auc") -> Interval | None:
        """Relative gain of one algorithm over another."""
        pairs = zip(self.values(name, algorithm, metric), self.values(name, over, metric), strict=True)
        return Interval.of([relative_gain(value, base) for value, base in pairs])

    def rows(self, titles: dict[str, str], paper: dict[str, float]) -> list[Row]:
        """Every slice and algorithm."""
        return [self._row(name, algorithm, titles, paper) for name, algorithm in self.keys]

    def _row(self, name: str, algorithm: str, titles: dict[str, str], paper: dict[str, float]) -> Row:
        def over(base: str, metric: str = "auc") -> Interval | None:
            return None if algorithm == base else self.gain(name, algorithm, base, metric)

        auc, gauc = self.values(name, algorithm, "auc"), self.values(name, algorithm, "gauc")
        sizes = {size: int(np.mean([each[name, algorithm].__dict__[size] for each in self.figures]))
                 for size in ("rows", "tasks")}  # fmt: skip
        return Row(
            definition=self.definition,
            slice=name,
            algorithm=algorithm,
            title=titles.get(algorithm, algorithm),
            **sizes,
            auc=_mean(auc),
            gauc=_mean(gauc),
            gain=over(VANILLA),
            gauc_gain=over(VANILLA, "gauc"),
            gain_over_intercept=over(INTERCEPT),
            gap_closed=self._gap(name, algorithm),
            paper=paper.get(algorithm) if name == ALL else None,
            auc_by_seed=auc,
            gauc_by_seed=gauc,
        )

    def _gap(self, name: str, algorithm: str) -> Interval | None:
        if algorithm in (VANILLA, BEST_POSSIBLE):
            return None
        columns = [self.values(name, each, "auc") for each in (VANILLA, algorithm, BEST_POSSIBLE)]
        return Interval.of([_share(*each) for each in zip(*columns, strict=True)])

    def compare(self, algorithm: str, over: str, paper: float | None) -> list[Comparison]:
        """One algorithm against another on every slice that has both."""
        names = dict.fromkeys(name for name, one in self.keys if one == algorithm and (name, over) in self.keys)
        return [
            Comparison(
                self.definition,
                name,
                algorithm,
                over,
                self.gain(name, algorithm, over),
                self.gain(name, algorithm, over, "gauc"),
                paper if name == ALL else None,
            )
            for name in names
        ]

    def against(self, other: "Seeds", algorithm: str) -> Comparison:
        """An algorithm here against itself under another task definition, on all rows: the same rows, other tasks."""
        pairs = zip(self.values(ALL, algorithm, "auc"), other.values(ALL, algorithm, "auc"), strict=True)
        gain = Interval.of([relative_gain(value, base) for value, base in pairs])
        here, there = (f"{algorithm} by {each.definition}" for each in (self, other))
        return Comparison(self.definition, ALL, here, there, gain, None, None)


def _share(base: float | None, value: float | None, best: float | None) -> float | None:
    if base is None or value is None or best is None or best <= base:
        return None
    return (value - base) / (best - base)


def _mean(values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
