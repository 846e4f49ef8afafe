"""What the features alone know of a row, and the directions in which a task's rows differ from each other.

Shapes: R rows, F columns of the dense design, K directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from limaml.config import Application
from limaml.training.advisor_effects import task_blocks
from limaml.training.advisor_sample import Sample

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]

DIRECTIONS = 6
_CATEGORIES = 250  # of one column, for the trees; rarer ones are one value
_ONE_HOT = 32
_DIRECTION_ROWS = 200_000
_BLOCK = 1 << 14


@dataclass(frozen=True)
class Parts:
    """Rows by time: `fit` trains the features-only model, `early` and `late` choose shrinkage, `test` decides.

    `middle` is early, the gap and late together: what effects are estimated on before the test. `fit_until`,
    `middle_until` and `test_until` are the days, since the epoch, after the last of each; `gap_days` is how many days
    with rows lie between early and late.
    """

    fit: Rows
    stop: Rows
    early: Rows
    late: Rows
    middle: Rows
    test: Rows
    fit_until: int
    middle_until: int
    test_until: int
    gap_days: int

    @classmethod
    def of(cls, day: npt.NDArray[np.int64]) -> "Parts":
        """40 % of the rows, 35 % and the rest, cut between logical days; needs `MINIMUM_DAYS` with rows."""
        days, counts = np.unique(day, return_counts=True)
        share = np.cumsum(counts) / len(day)
        n = len(days)
        first = int(np.clip(np.searchsorted(share, 0.40) + 1, 2, n - 4))
        second = int(np.clip(np.searchsorted(share, 0.75) + 1, first + 3, n - 1))
        gap = max(1, round(0.1 * (second - first)))
        early = first + max(1, round(0.6 * (second - first - gap)))
        stop = first - max(1, round(0.2 * first))
        bounds = np.append(days, days[-1] + 1)

        def between(low: int, high: int) -> Rows:
            return (day >= bounds[low]) & (day < bounds[high])

        return cls(
            fit=between(0, stop),
            stop=between(stop, first),
            early=between(first, early),
            late=between(early + gap, second),
            middle=between(first, second),
            test=between(second, n),
            fit_until=int(bounds[first]),
            middle_until=int(bounds[second]),
            test_until=int(bounds[n]),
            gap_days=gap,
        )


MINIMUM_DAYS = 6


def features_only(sample: Sample, parts: Parts, application: Application, kinds: Sequence[str], seed: int) -> Floats:
    """[R] logit of each row from features and `kinds` alone, never from who the member or what the item is.

    Gradient-boosted trees on the earliest part, stopped early by its last days; then a slope, an intercept and a shift
    per value of each kind on the middle part, so that drift which is everybody's is no task's.

    Args:
        kinds: key columns of few values: their main effects are no reason to personalize by them.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    numeric, categorical = _columns(application, sample)
    features = {feature.name for feature in application.features.all}
    extra = [sample.keys[kind].view(np.int64) for kind in kinds if kind not in features]
    known = parts.fit | parts.stop
    columns = [_trees_codes(codes, known) for codes in (*(sample.codes[:, at] for at in categorical), *extra)]
    design = np.column_stack([sample.numeric[:, numeric], *columns]).astype(np.float32)
    trees = HistGradientBoostingClassifier(
        learning_rate=0.1,
        max_iter=300,
        max_leaf_nodes=15,
        min_samples_leaf=40,
        l2_regularization=1.0,
        categorical_features=np.arange(len(numeric), design.shape[1]),
        early_stopping=True,  # type: ignore[arg-type]
        n_iter_no_change=10,
        random_state=seed,
    )
    trees.fit(design[parts.fit], sample.label[parts.fit], X_val=design[parts.stop], y_val=sample.label[parts.stop])
    logit = np.concatenate([trees.decision_function(block) for block in _blocks(design)])
    shifts = [np.unique(sample.keys[kind], return_inverse=True)[1] for kind in kinds]
    recalibration = sparse.csr_matrix(
        sparse.hstack([sparse.csr_matrix(logit[:, None]), *(_one_hot(codes, int(codes.max()) + 1) for codes in shifts)])
    )
    model = LogisticRegression(C=10.0, max_iter=500)
    model.fit(recalibration[parts.middle], sample.label[parts.middle])
    return model.decision_function(recalibration)


def directions(
    sample: Sample, task: npt.NDArray[np.int64], fit: Rows, application: Application, left_out: Sequence[str]
) -> Floats:
    """[R, K] the principal directions in which rows of one task differ, K at most `DIRECTIONS`, perhaps 0.

    Features are standardized (categories one-hot) and centred inside their task on the earliest part, so what is
    constant in a task drops out. The scale is common: a row's squared length inside its task averages 1.

    Args:
        left_out: columns that are candidate keys: a taste for one of their values is judged as that key.
    """
    design = _Dense(sample, fit, application, left_out)
    rows = np.flatnonzero(fit)
    rows = rows[:: -(-len(rows) // _DIRECTION_ROWS)]
    rows = rows[np.argsort(task[rows], kind="stable")]
    scatter, total = np.zeros((design.width, design.width)), 0
    for block, starts in task_blocks(task[rows], _BLOCK):
        dense = design.rows(rows[block])
        counts = np.diff(np.append(starts, len(dense)))
        sums = np.add.reduceat(dense, starts)
        scatter += dense.T @ dense - (sums / counts[:, None]).T @ sums
        total += len(dense) - len(starts)
    if not total or not design.width:
        return np.zeros((len(task), 0))
    values, vectors = np.linalg.eigh(scatter / total)
    keep = np.argsort(-values)[:DIRECTIONS]
    keep = keep[values[keep] > 1e-6]
    vectors = vectors[:, keep] / np.sqrt(values[keep].sum() or 1.0)
    # An eigenvector's sign is arbitrary; fixed, equal inputs give equal numbers everywhere.
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(keep))])
    everything = np.arange(len(task))
    parts = [design.rows(everything[at : at + _BLOCK]) @ vectors for at in range(0, len(task), _BLOCK)]
    return np.concatenate(parts)


class _Dense:
    """Standardized numeric features and one-hot categories of any rows, by the statistics of the earliest part."""

    def __init__(self, sample: Sample, fit: Rows, application: Application, left_out: Sequence[str]) -> None:
        features = application.features.all
        numeric, categorical = _columns(application, sample, left_out)
        names = [f for f in features if f.kind == "numeric"]
        self._log = np.array([names[at].transform == "log" for at in numeric], bool)
        self._numeric, self._codes, self._categorical = sample.numeric[:, numeric], sample.codes, categorical
        known = self._transformed(self._numeric[fit])
        with np.errstate(invalid="ignore"):
            count = np.maximum(np.isfinite(known).sum(axis=0), 1)
            self._mean = np.nansum(known, axis=0) / count
            self._scale = np.sqrt(np.nansum((known - self._mean) ** 2, axis=0) / count)
        self._scale[self._scale < 1e-9] = np.inf
        self._tops = [_frequent(sample.codes[fit, at], _ONE_HOT) for at in categorical]
        self._shares = [np.array([(sample.codes[fit, at] == v).mean() for v in top]) for at, top in self._pairs()]
        self.width = len(numeric) + sum(len(top) for top in self._tops)

    def rows(self, rows: npt.NDArray[np.int64]) -> Floats:
        """[N, F] of some rows."""
        standard = (self._transformed(self._numeric[rows]) - self._mean) / self._scale
        columns = [np.nan_to_num(np.clip(standard, -5, 5), nan=0.0)]
        for (at, top), share in zip(self._pairs(), self._shares, strict=True):
            columns.append((self._codes[rows, at, None] == top) - share)
        return np.concatenate(columns, axis=1)

    def _pairs(self) -> list[tuple[int, npt.NDArray[np.int64]]]:
        return list(zip(self._categorical, self._tops, strict=True))

    def _transformed(self, values: npt.NDArray[np.float32]) -> Floats:
        wide = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
        return np.where(self._log, np.sign(wide) * np.log1p(np.abs(wide)), wide)


def _columns(application: Application, sample: Sample, left_out: Sequence[str] = ()) -> tuple[list[int], list[int]]:
    """Positions among the numeric and the categorical features, without identities of entities and what is left out."""
    hidden = {application.data.member_column, application.data.item_column, *sample.kept, *left_out}
    numeric = [feature for feature in application.features.all if feature.kind == "numeric"]
    categorical = [feature for feature in application.features.all if feature.kind == "categorical"]
    return (
        [at for at, feature in enumerate(numeric) if feature.name not in hidden],
        [at for at, feature in enumerate(categorical) if feature.name not in hidden],
    )


def _frequent(codes: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    values, counts = np.unique(codes, return_counts=True)
    return np.sort(values[np.argsort(-counts, kind="stable")[:most]])


def _trees_codes(codes: npt.NDArray[np.int64], fit: Rows) -> npt.NDArray[np.float32]:
    """[R] small codes of the frequent values of the earliest part, NaN for all others."""
    top = _frequent(codes[fit], _CATEGORIES)
    at = np.minimum(np.searchsorted(top, codes), len(top) - 1)
    return np.where(top[at] == codes, at, np.nan).astype(np.float32)


def _one_hot(codes: npt.NDArray[np.int64], width: int) -> sparse.csr_matrix:
    rows = np.arange(len(codes))
    return sparse.csr_matrix((np.ones(len(codes)), (rows, codes)), shape=(len(codes), width))


def _blocks(design: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    return [design[at : at + (1 << 16)] for at in range(0, len(design), 1 << 16)]
