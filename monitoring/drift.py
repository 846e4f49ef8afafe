"""Drift of features and predictions: the population stability index over all rows, and Evidently's page on a sample.

Alarms come from the size of the effect, never from p-values: on millions of rows every difference is significant, and
few matter. Where few tasks make chance alone large, the limit rises to what chance may give.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

from limaml.config import Features
from limaml.data.batches import TaskBatch

BINS = 10
CATEGORIES = 20
# Evidently's page is 3.7 MB of script plus 70 kB a column: the columns that moved most are enough to look at.
REPORTED_COLUMNS = 12


@dataclass(frozen=True)
class Column:
    """A feature as task sets hold it: `block` is the field of TaskBatch, `index` its position there."""

    name: str
    block: str
    index: int

    @property
    def categorical(self) -> bool:
        """Whether values are category codes."""
        return self.block.endswith("category")

    @property
    def of_task(self) -> bool:
        """Whether the value belongs to the task, so that rows of one task tell little more than one row."""
        return self.block.startswith("meta")

    def values(self, batch: TaskBatch) -> npt.NDArray:
        """[R] float32 (NaN for null) or int64 codes (0 for null)."""
        return getattr(batch, self.block)[:, self.index]


def feature_columns(features: Features) -> list[Column]:
    """Every feature in the order of the configuration."""
    columns = []
    for side, listed in (("meta", features.meta), ("other", features.other)):
        position = {"numeric": 0, "category": 0}
        for feature in listed:
            kind = "category" if feature.kind == "categorical" else "numeric"
            columns.append(Column(feature.name, f"{side}_{kind}", position[kind]))
            position[kind] += 1
    return columns


class Binning:
    """Bins of one column, made from a reference sample and then applied to any number of rows.

    Numeric: quantiles of the reference, what lies below and above its range, and nulls. Categories: the most frequent
    of the reference, the rest, and nulls.
    """

    def __init__(self, sample: npt.NDArray, categorical: bool) -> None:
        self._categorical = categorical
        if categorical:
            codes, counts = np.unique(sample[sample != 0], return_counts=True)
            frequent = np.argsort(-counts, kind="stable")[:CATEGORIES]
            self._edges = np.sort(codes[frequent])
            self.bins = len(self._edges) + 2
        else:
            present = sample[np.isfinite(sample)].astype(np.float64)
            inner = np.quantile(present, np.linspace(0, 1, BINS + 1), method="inverted_cdf") if len(present) else []
            below = np.nextafter(present.min(), -np.inf) if len(present) else 0.0
            self._edges = np.unique(np.append(inner, below))
            self.bins = len(self._edges) + 2

    def count(self, values: npt.NDArray) -> npt.NDArray[np.int64]:
        """[B] rows per bin; the last bin holds nulls."""
        if self._categorical:
            place = np.searchsorted(self._edges, values)
            known = place < len(self._edges)
            known[known] = self._edges[place[known]] == values[known]
            index = np.where(known, place, self.bins - 2)
            index[values == 0] = self.bins - 1
        else:
            index = np.searchsorted(self._edges, values.astype(np.float64), side="left")
            index[np.isnan(values)] = self.bins - 1
        return np.bincount(index, minlength=self.bins)


def psi(reference: npt.NDArray[np.int64], recent: npt.NDArray[np.int64]) -> float:
    """Population stability index of two histograms: Σ (p − q)·ln(p / q), half a row added to every bin.

    Below 0.1 is commonly read as stable, above 0.2 as a shift. NaN where one side has no rows.
    """
    if not reference.sum() or not recent.sum():
        return float("nan")
    used = (reference + recent) > 0
    q = (reference[used] + 0.5) / (reference[used] + 0.5).sum()
    p = (recent[used] + 0.5) / (recent[used] + 0.5).sum()
    return float(((p - q) * np.log(p / q)).sum())


def sampling_psi(bins: int, reference_size: float, recent_size: float) -> float:
    """What two samples of one population exceed once in a thousand: PSI is then about (1/n + 1/m)·χ² of B − 1."""
    return float(chdtri(max(bins - 1, 1), 0.001)) * (1 / max(reference_size, 1.0) + 1 / max(recent_size, 1.0))


@dataclass(frozen=True)
class Drift:
    """PSI of one column, and the `sampling` PSI that so few tasks or rows may show by chance."""

    name: str
    psi: float
    sampling: float

    def limit(self, threshold: float) -> float:
        """What is allowed: the threshold, or more where chance alone reaches more."""
        return max(threshold, self.sampling)

    def excess(self, threshold: float) -> float:
        """PSI over what is allowed; above 1 is an alarm."""
        return self.psi / self.limit(threshold)


class Histograms:
    """Histograms of every feature over a stream of batches, with the effective number of independent rows."""

    def __init__(self, columns: Sequence[Column], reference_sample: TaskBatch) -> None:
        self._columns = columns
        self._binnings = [Binning(c.values(reference_sample), c.categorical) for c in columns]

    def empty(self) -> "Counts":
        """Counts to fill."""
        return Counts([np.zeros(b.bins, np.int64) for b in self._binnings])

    def add(self, counts: "Counts", batch: TaskBatch) -> None:
        """Count a batch's rows."""
        for total, column, binning in zip(counts.bins, self._columns, self._binnings, strict=True):
            total += binning.count(column.values(batch))
        counts.rows += batch.rows
        counts.squares += float(np.square(batch.lengths, dtype=np.float64).sum())

    def drifts(self, reference: "Counts", recent: "Counts") -> list[Drift]:
        """One Drift a column, in the order of the columns."""
        result = []
        for column, before, now in zip(self._columns, reference.bins, recent.bins, strict=True):
            sizes = [counts.independent_tasks if column.of_task else counts.rows for counts in (reference, recent)]
            used = int(((before + now) > 0).sum())
            result.append(Drift(column.name, psi(before, now), sampling_psi(used, *sizes)))
        return result


@dataclass
class Counts:
    """Rows per bin of every column."""

    bins: list[npt.NDArray[np.int64]]
    rows: int = 0
    squares: float = 0.0

    @property
    def independent_tasks(self) -> float:
        """Kish's effective number of tasks: (Σ rows)² / Σ rows²."""
        return self.rows**2 / self.squares if self.squares else 0.0


def effective_tasks(lengths: npt.NDArray[np.int64]) -> float:
    """Kish's effective number of tasks of these lengths: as many equal ones would tell as much."""
    return float(lengths.sum()) ** 2 / float(np.square(lengths, dtype=np.float64).sum())


def score_drift(reference: npt.NDArray, recent: npt.NDArray, reference_tasks: float, recent_tasks: float) -> Drift:
    """Drift of predicted probabilities; scores of one task hang together, so tasks count, not rows."""
    binning = Binning(reference, categorical=False)
    before, now = binning.count(reference), binning.count(recent)
    used = int(((before + now) > 0).sum())
    return Drift("score", psi(before, now), sampling_psi(used, reference_tasks, recent_tasks))


def write_evidently(
    path: Path,
    columns: Sequence[Column],
    reference: tuple[TaskBatch, npt.NDArray[np.float32]],
    recent: tuple[TaskBatch, npt.NDArray[np.float32]],
    threshold: float,
) -> None:
    """Evidently's drift page of the given columns and the scores, from two samples (tasks, their rows' scores).

    A numeric column that is null on one side is left out: Evidently refuses it.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    columns = [
        c for c in columns if c.categorical or all(np.isfinite(c.values(x[0])).any() for x in (reference, recent))
    ]
    labels = {c.name: _category_labels(c.values(reference[0])) for c in columns if c.categorical}
    definition = DataDefinition(
        numerical_columns=["score", *(c.name for c in columns if not c.categorical)],
        categorical_columns=list(labels),
    )

    def dataset(batch: TaskBatch, score: npt.NDArray[np.float32]) -> Dataset:
        frame = {"score": score.astype(np.float64)}
        for column in columns:
            values = column.values(batch)
            if column.categorical:
                known = labels[column.name]
                frame[column.name] = np.array([known.get(code, "rest") for code in values.tolist()], dtype=object)
            else:
                frame[column.name] = values.astype(np.float64)
        return Dataset.from_pandas(pd.DataFrame(frame), data_definition=definition)

    now, before = dataset(*recent), dataset(*reference)
    Report([DataDriftPreset(method="psi", threshold=threshold)]).run(now, before).save_html(str(path))


def _category_labels(codes: npt.NDArray[np.int64]) -> dict[int, str]:
    """Readable names of the most frequent codes: task sets keep hashes of the values, not the values."""
    values, counts = np.unique(codes[codes != 0], return_counts=True)
    frequent = values[np.argsort(-counts, kind="stable")[:CATEGORIES]]
    return {0: "null"} | {int(code): f"#{rank}" for rank, code in enumerate(frequent, 1)}
