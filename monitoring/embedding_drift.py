"""Drift of embeddings by effect size, against the generation before: location, length, spread, direction, zeros.

Each figure sees what the others miss: a collapse to the mean keeps location and length; a rotation keeps length and
spread; swapped keys keep all but the cosine of a task with itself.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monitoring.checks import Check, at_least, at_most
from monitoring.sample import task_hashes

Floats = npt.NDArray[np.float32]

ZERO_NORM = 1e-6
ZERO_SHARE = 0.05
HISTOGRAM_BINS = 40


@dataclass
class EmbeddingSummary:
    """Moments of a generation over a stream of chunks, and its `sample` tasks with the lowest hash.

    The moments are taken about the first chunk's mean, so that a mean far from zero does not eat the spread.
    """

    sample: int = 20_000
    count: int = 0
    zeros: int = 0
    norm_sum: float = 0.0
    norms: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    task_ids: list[str] = field(default_factory=list)
    embedding: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    _hash: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    _pivot: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    _sum: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    _squares: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def add(self, task_ids: list[str], embedding: Floats) -> None:
        """Add embeddings [T, W] of distinct tasks."""
        if not len(task_ids):
            return
        wide = embedding.astype(np.float64)
        if not self.count:
            self._pivot = wide.mean(axis=0)
            self._sum, self._squares = np.zeros_like(self._pivot), np.zeros_like(self._pivot)
            self.embedding = np.empty((0, embedding.shape[1]), np.float32)
        norm = np.linalg.norm(wide, axis=1)
        self.count += len(task_ids)
        self.zeros += int((norm < ZERO_NORM).sum())
        self.norm_sum += float(norm.sum())
        self._sum += (wide - self._pivot).sum(axis=0)
        self._squares += np.square(wide - self._pivot).sum(axis=0)
        hashes = np.concatenate([self._hash, task_hashes(task_ids)])
        kept = np.argsort(hashes, kind="stable")[: self.sample]
        everyone = self.task_ids + task_ids
        self.task_ids = [everyone[i] for i in kept]
        self.embedding = np.concatenate([self.embedding, embedding])[kept]
        self._hash = hashes[kept]
        self.norms = np.linalg.norm(self.embedding, axis=1)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """[W] mean embedding."""
        return self._pivot + self._sum / max(self.count, 1)

    @property
    def deviation(self) -> npt.NDArray[np.float64]:
        """[W] standard deviation of each coordinate."""
        share = self._sum / max(self.count, 1)
        return np.sqrt(np.maximum(self._squares / max(self.count, 1) - np.square(share), 0.0))

    @property
    def spread(self) -> float:
        """Root mean square distance to the mean."""
        return float(np.sqrt(np.square(self.deviation).sum()))

    @property
    def mean_norm(self) -> float:
        """Mean length of an embedding."""
        return self.norm_sum / max(self.count, 1)

    @property
    def zero_share(self) -> float:
        """Share of embeddings that are zero."""
        return self.zeros / max(self.count, 1)


def compare(before: EmbeddingSummary, now: EmbeddingSummary) -> dict[str, float]:
    """Effect sizes between two generations of one model.

    `shift`: distance of the means in units of `before`'s spread. `coordinate_shift`: the same for the coordinate that
    moved most. `norm_ratio`, `spread_ratio`: now over before. `cosine`: mean over the tasks in both of the cosine
    between a task's two embeddings, each measured from its generation's mean; NaN without common tasks.
    """
    tiny = 1e-12
    moved = now.mean - before.mean
    rows = {task_id: i for i, task_id in enumerate(before.task_ids)}
    pairs = [(rows[task_id], i) for i, task_id in enumerate(now.task_ids) if task_id in rows]
    cosine = float("nan")
    if pairs:
        old, new = np.array(pairs).T
        a, b = before.embedding[old] - before.mean, now.embedding[new] - now.mean
        length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine = float(((a * b).sum(axis=1) / np.maximum(length, tiny)).mean())
    return {
        "shift": float(np.linalg.norm(moved) / max(before.spread, tiny)),
        "coordinate_shift": float((np.abs(moved) / np.maximum(before.deviation, tiny)).max()),
        "norm_ratio": now.mean_norm / max(before.mean_norm, tiny),
        "spread_ratio": now.spread / max(before.spread, tiny),
        "cosine": cosine,
        "common_tasks": float(len(pairs)),
    }


def embedding_checks(effects: dict[str, float] | None, zero_share: float, limit: float) -> list[Check]:
    """Checks of a generation; `effects` is None on the first day and after a change of the model.

    `limit` bounds every effect: the shifts themselves, the relative change of length and spread, one minus the cosine.
    """
    restore = "roll back to the release before, and look at the task set and the model the embeddings were made from"
    checks = [at_most("embedding_zero_share", "Embeddings that are zero", zero_share, ZERO_SHARE, restore)]
    if effects is None:
        return checks
    # A coordinate of small spread hides in the whole, and the adapted bias is one: it moves every score.
    for name, title in (
        ("shift", "Shift of the mean embedding, in spreads"),
        ("coordinate_shift", "Shift of the coordinate that moved most, in its own spread"),
    ):
        checks.append(at_most(f"embedding_{name}", title, effects[name], limit, restore))
    for name, title in (
        ("norm_ratio", "Change of mean length"),
        ("spread_ratio", "Change of the spread between tasks"),
    ):
        checks.append(at_most(f"embedding_{name}", f"{title}, as a factor", _factor(effects[name]), 1 + limit, restore))
    if effects["common_tasks"]:
        keys = "check that embeddings are written under the right task keys; " + restore
        title = "Cosine of a task with itself the day before"
        checks.append(at_least("embedding_cosine", title, effects["cosine"], 1 - limit, keys))
    return checks


def _factor(ratio: float) -> float:
    """A ratio as a factor of change, the same for twice and half."""
    return max(ratio, 1 / ratio) if ratio > 0 else float("inf")
