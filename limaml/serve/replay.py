"""What the service answered, answered once more offline: logged requests through the tables' path, release by release.

Online, JSON becomes arrays without Arrow and scores come from whichever engine is fastest; offline, columns of the log
become arrays and torch computes. Where both are equal, a model trained on the log is trained on what it will be served.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.config import Application
from limaml.console import progress
from limaml.errors import DataError, StoreError
from limaml.experiment.exposures import GENERATION, REASON, REQUEST, SCORE, exposure_schema, open_log
from limaml.online.requests import candidates_of_table
from limaml.online.scoring import DEFAULT, ZERO_SHOT, BaselineScorer, Pinned, Scores, pin
from limaml.online.store import Release, open_store
from limaml.schema import MODEL_VERSION
from limaml.serve.exposure_rows import FEATURES, FEATURES_DIGEST, asked_columns, features_digests

log = logging.getLogger(__name__)

TOLERANCE = 1e-6
_ROWS = 1 << 16


@dataclass
class Replayed:
    """Counts of logged rows.

    Attributes:
        requests: distinct requests of the rows.
        compared: rows scored once more.
        other_features: of them, rows whose features the network reads differently offline.
        other_scores: of them, rows whose score differs by more than the tolerance.
        largest_difference: of a score.
        without_store: rows answered while the store could not be read; their scores are not compared.
        collected: rows of generations that are gone; they are not compared.
        example: a request that differs.
    """

    requests: int = 0
    compared: int = 0
    other_features: int = 0
    other_scores: int = 0
    largest_difference: float = 0.0
    without_store: int = 0
    collected: int = 0
    example: str = ""

    @property
    def equal(self) -> bool:
        """Whether everything that could be compared is equal."""
        return not (self.other_features or self.other_scores)


def replay(
    exposures: str,
    store_url: str,
    application: Application,
    days: Sequence[date] = (),
    tolerance: float = TOLERANCE,
) -> Replayed:
    """Score a log's rows once more by the releases that answered them, and compare features and scores.

    Args:
        exposures: folder of the service's log, recorded with `experiment.exposures.features`.
        store_url: the online store that still holds the releases.
        application: the configuration they were served with.
        days: logical days to replay; none given replays all.
        tolerance: largest difference of a score that counts as equal.

    Raises:
        DataError: the log has no features, or nothing of it can be replayed.
        StoreError: the store can't be read.
    """
    columns = exposure_schema(pa.string(), pa.string())
    wanted = [columns.field(name) for name in (REQUEST, SCORE, REASON, MODEL_VERSION, GENERATION)]
    asked = pa.struct(list(asked_columns(application).items()))
    schema = pa.schema([*wanted, (FEATURES, asked), (FEATURES_DIGEST, pa.uint64())])
    dataset = open_log(exposures, schema, days)
    releases, found, seen = _Releases(store_url, application), Replayed(), set[str]()
    with progress() as bar:
        shown = bar.add_task("replay", total=dataset.count_rows(), note="")
        for batch in dataset.to_batches(batch_size=_ROWS):
            table = pa.Table.from_batches([batch])
            seen.update(table[REQUEST].unique().to_pylist())
            for part in _by_release(table):
                _compare(part, releases, application, tolerance, found)
            bar.advance(shown, len(table))
    found.requests = len(seen)
    if not found.compared:
        raise DataError(
            f"{exposures}: none of its {found.collected + found.without_store:,} rows can be replayed: their releases' "
            "generations are collected, or they were answered without the store"
        )
    log.info("replay: %s of %s rows compared", f"{found.compared:,}", f"{found.compared + found.collected:,}")
    return found


def _by_release(table: pa.Table) -> list[pa.Table]:
    """Rows that the same model and generation answered, together."""
    names = zip(table[MODEL_VERSION].to_pylist(), table[GENERATION].to_pylist(), strict=True)
    rows: dict[tuple[str, str], list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return [table.take(pa.array(each)) for each in rows.values()]


def _compare(
    table: pa.Table, releases: "_Releases", application: Application, tolerance: float, found: Replayed
) -> None:
    scorer = releases.scorer(table[MODEL_VERSION][0].as_py(), table[GENERATION][0].as_py())
    if scorer is None:
        found.collected += len(table)
        return
    candidates = candidates_of_table(application, pa.Table.from_struct_array(table[FEATURES]))
    if isinstance(scorer, BaselineScorer):
        scores, cold = scorer.score(candidates), np.zeros(len(table), bool)
    else:
        scores = scorer.score(candidates, scorer.fetch(candidates))
        cold = _answered_without_store(table, scores)
    difference = np.where(cold, 0.0, np.abs(scores.probability - table[SCORE].to_numpy()))
    other_features = features_digests(application, candidates) != table[FEATURES_DIGEST].to_numpy()
    other = other_features | (difference > tolerance)
    if other.any() and not found.example:
        found.example = table[REQUEST][int(np.flatnonzero(other)[0])].as_py()
    found.compared += int((~cold).sum())
    found.without_store += int(cold.sum())
    found.other_features += int(other_features.sum())
    found.other_scores += int((difference > tolerance).sum())
    found.largest_difference = max(found.largest_difference, float(difference.max(initial=0.0)))


def _answered_without_store(table: pa.Table, scores: Scores) -> npt.NDArray[np.bool_]:
    """[R] rows that were answered as without an embedding though they have one."""
    logged = np.isin(np.array(table[REASON].to_pylist()), (ZERO_SHOT, DEFAULT))
    return logged & ~np.isin(scores.reason, (ZERO_SHOT, DEFAULT))


@dataclass
class _Releases:
    """What answered, loaded once each."""

    store_url: str
    application: Application
    _loaded: dict[tuple[str, str], Pinned | BaselineScorer | None] = field(default_factory=dict)

    def scorer(self, model_version: str, generation: str) -> Pinned | BaselineScorer | None:
        """The scorer of a model, with a generation of embeddings or the vanilla one; None where it is gone."""
        key = (model_version, generation)
        if key not in self._loaded:
            self._loaded[key] = self._load(*key)
        return self._loaded[key]

    def _load(self, model_version: str, generation: str) -> Pinned | BaselineScorer | None:
        store = open_store(self.store_url, self.application.name)

        def fits(release: Release) -> bool:
            return release.model_version == model_version and generation in ("", release.generation)

        release = next((each for each in store.releases() if fits(each)), None)
        if release is None:
            raise StoreError(f"{store.url}: no release of model {model_version} and generation {generation!r}")
        if not generation:
            return BaselineScorer.open(release.model_uri, self.application)
        if store.sealed(generation) is None:
            return None
        return pin(store, self.application, None, number=release.number)


def check(result: Replayed, exposures: str) -> None:
    """Refuse a log that differs.

    Raises:
        DataError: features or scores are not equal.
    """
    if not result.equal:
        raise DataError(
            f"{exposures}: of {result.compared:,} rows, {result.other_features:,} have other features offline and "
            f"{result.other_scores:,} another score (by up to {result.largest_difference:.3g}), request "
            f"{result.example!r} among them; what is trained on is not what is served"
        )
