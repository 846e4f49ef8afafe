"""The most any model could learn from the simulator's samples: an observer who knows its rules, but no member's taste.

    python -m benchmarks.ceiling [--seeds N] [--members N] [--days N] [--json]

For each world the last day is scored three times: by features alone; by the exact posterior of a member's taste, base
rate and affinities given features and the samples of the days before; and by the truth. The observer knows every
item's vector, every effect and the law by which tastes drift, which no trained model does. `gap_closed` is the
posterior's share of the way from features to truth: no algorithm closes more on the same samples.

The posterior is that of a Gaussian process with a logistic likelihood, by Laplace's approximation (Rasmussen and
Williams, 2006, algorithm 3.1): what is unknown of a member is normal, and the logit is linear in it.

Shapes: N members · S samples of one member · D = tastes, a base rate, and an affinity for each notification type.
"""

import argparse
import statistics
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.metrics import roc_auc_score

from benchmarks.reporting import emit, show
from limaml.config import load_application
from limaml.data import population as law
from limaml.data.simulated_log import HOUR
from limaml.data.world import SimulationSpec, World
from limaml.schema import LABEL, TRUE_PROBABILITY

Floats = npt.NDArray[np.float64]
APPLICATION = "ptap"
_STEPS = 50


@dataclass(frozen=True)
class Samples:
    """Rows of a log as the observer sees them, by member: `linear` [R, D] is what multiplies the unknown."""

    member: npt.NDArray[np.int64]
    label: npt.NDArray[np.bool_]
    truth: Floats
    day: Floats
    linear: Floats
    known: Floats

    def at(self, rows: npt.NDArray[Any] | slice) -> "Samples":
        return Samples(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class Observer:
    """Knows the world's rules; of a member, what the features tell."""

    def __init__(self, spec: SimulationSpec) -> None:
        self._rules = law.draw_rules(spec.seed)
        self._members = law.draw_members(spec.seed, spec.members, spec.chunk, self._rules)
        self._items = law.draw_items(spec.seed, spec.items, "notifications", self._rules)
        noise = (1 - law.MEMBER_REVEALED) / law.MEMBER_REVEALED
        image = self._rules.member_image.astype(np.float64)
        shown = self._members.features * np.sqrt((image**2).sum(0) + noise)
        lasting = np.linalg.inv(np.eye(law.TASTES) + image @ image.T / noise)
        self._lasting = (1 - law.WANDERING_SHARE) * lasting
        self._expected = np.sqrt(1 - law.WANDERING_SHARE) * shown @ image.T / noise @ lasting

    def samples(self, rows: pa.Table, truth: pa.Table, day: int) -> Samples:
        """One day's interactions."""
        member, item = rows["member_id"].to_numpy() - 1, rows["item_id"].to_numpy() - 1
        code, items = self._items.type_code[item], self._items
        taste = law.TASTE / law.TASTES**0.5 * items.vector[item]
        affinity = np.eye(len(law.TYPES))[code]
        known = law.INTERCEPT + self._members.features[member] @ self._rules.member_weight
        known = known + (law.POPULARITY * items.popularity + items.hidden)[item] + self._rules.type_effect[code]
        known = known + self._rules.hour_effect[rows[HOUR].to_numpy()] + (taste * self._expected[member]).sum(1)
        return Samples(
            member,
            rows[LABEL].to_numpy().astype(bool),
            truth[TRUE_PROBABILITY].to_numpy().astype(np.float64),
            np.full(len(rows), day, np.float64),
            np.concatenate([taste, np.ones((len(rows), 1)), affinity], 1).astype(np.float64),
            known.astype(np.float64),
        )

    def covariance(self, a: Samples, b: Samples) -> Floats:
        """[A, B] of the unknown part of the logit, between rows of one member."""
        tastes, rest = slice(0, law.TASTES), slice(law.TASTES, None)
        apart = np.abs(a.day[:, None] - b.day[None])
        wandering = law.WANDERING_SHARE * np.exp(-apart / law.WANDERING_DAYS)
        variances = np.array([law.BASE_RATE**2] + [law.AFFINITY**2] * len(law.TYPES))
        lasting = a.linear[:, tastes] @ self._lasting @ b.linear[:, tastes].T
        return (
            lasting
            + wandering * (a.linear[:, tastes] @ b.linear[:, tastes].T)
            + a.linear[:, rest] * variances @ b.linear[:, rest].T
        )

    def posterior(self, seen: Samples, asked: Samples) -> Floats:
        """[A] mean logits of rows of one member, given its samples."""
        covariance, f = self.covariance(seen, seen), np.zeros(len(seen.label))
        for _ in range(_STEPS):
            p = 1 / (1 + np.exp(-seen.known - f))
            root = np.sqrt(p * (1 - p))
            b = root**2 * f + seen.label - p
            inner = np.eye(len(f)) + root[:, None] * covariance * root
            before, f = f, covariance @ (b - root * np.linalg.solve(inner, root * (covariance @ b)))
            if np.abs(f - before).max(initial=0) < 1e-8:
                break
        return asked.known + self.covariance(asked, seen) @ (seen.label - 1 / (1 + np.exp(-seen.known - f)))


def world(seed: int, members: int, days: int) -> dict[str, Any]:
    """AUCs of one world's last day."""
    application = load_application(APPLICATION)
    spec = SimulationSpec(seed=seed, members=members, days=days)
    played, observer = World(spec, application), Observer(spec)
    parts: list[Samples] = []
    day = played.first_day
    while day < spec.end:
        for part in played.day(day):
            parts.append(observer.samples(part.interactions, part.truth, (day - spec.end).days))
        day += timedelta(days=1)
    everything = Samples(*(np.concatenate([getattr(p, n) for p in parts]) for n in Samples.__dataclass_fields__))
    test = everything.at(everything.day == -1)
    oldest = -1 - application.windows.lookback_days
    support = everything.at((everything.day < -1) & (everything.day >= oldest))
    order = np.argsort(support.member, kind="stable")
    support, ends = support.at(order), np.cumsum(np.bincount(support.member, minlength=members))
    learned = test.known.copy()
    for member in np.unique(test.member):
        first = max(ends[member] - application.task.max_samples, ends[member - 1] if member else 0)
        rows = np.flatnonzero(test.member == member)
        learned[rows] = observer.posterior(support.at(slice(first, ends[member])), test.at(rows))
    features, posterior, truth = (roc_auc_score(test.label, x) for x in (test.known, learned, test.truth))
    closed = (posterior - features) / (truth - features)
    return {"features": features, "posterior": posterior, "truth": truth, "gap_closed": closed, "rows": len(test.label)}


def run(seeds: int = 5, members: int = 2500, days: int = 17) -> dict[str, Any]:
    """Every world's figures, and their means."""
    worlds = [world(seed, members, days) for seed in range(seeds)]
    return {"mean": {name: statistics.mean(w[name] for w in worlds) for name in worlds[0]}, "worlds": worlds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The most any model could learn from the simulator's samples.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--members", type=int, default=2500)
    parser.add_argument("--days", type=int, default=17)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = run(options.seeds, options.members, options.days)
    if options.json:
        emit(result)
        return
    names = list(result["mean"])
    lines = [[f"world {i}", *(round(w[n], 4) for n in names)] for i, w in enumerate(result["worlds"])]
    show("AUC of the last day", ["", *names], [*lines, ["mean", *(round(result["mean"][n], 4) for n in names)]])


if __name__ == "__main__":
    main()
