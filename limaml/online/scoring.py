"""Scoring from a release: the model it names, reading only the embeddings made by that model.

Every answer says why it is what it is. A task without an embedding is scored by the un-adapted meta block; a read that
failed is an error, and never passes for such a task.
Of several task definitions, each has an embedding of its own for a row; one that has none does not spoil the others.

Shapes: R rows, one (task, item) candidate each; K task definitions; W width of an embedding.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.config import Application
from limaml.errors import DataError, IntegrityError, StoreError
from limaml.model import Model, load_model
from limaml.online import requests
from limaml.online.overlay import open_generation
from limaml.online.store import Reader, Release, Store, open_store
from limaml.schema import stored_id

log = logging.getLogger(__name__)

FRESH = "fresh"  # an embedding no older than monitoring.maximum_age_hours
STALE = "stale"  # an older embedding
ZERO_SHOT = "zero_shot"  # no embedding: the un-adapted meta block on the request's meta features
DEFAULT = "default"  # neither embedding nor meta features: the average member's embedding
VANILLA = "vanilla"  # the baseline, which adapts to no one

_PIN_ATTEMPTS = 3


@dataclass(frozen=True)
class Scores:
    """Answers for R rows, in their order.

    Attributes:
        probability: [R] float32.
        reason: [R] reason codes; of several task definitions, the one that knew least.
        age_seconds: [R] float64, `now` minus the cutoff of the embeddings' events; NaN where none was used.
        model_version, generation, as_of: what answered; the baseline has neither generation nor date.
    """

    probability: npt.NDArray[np.float32]
    reason: npt.NDArray[np.str_]
    age_seconds: npt.NDArray[np.float64]
    model_version: str
    generation: str = ""
    as_of: date | None = None

    def table(self) -> pa.Table:
        """The answers as columns, null age where there is none."""
        rows = len(self.probability)
        return pa.table(
            {
                "probability": pa.array(self.probability),
                "reason": pa.array(self.reason.tolist(), pa.string()),
                "age_seconds": pa.array(self.age_seconds, from_pandas=True),
                "model_version": pa.repeat(self.model_version, rows),
                "generation": pa.repeat(self.generation, rows),
                "as_of": pa.array([self.as_of] * rows, pa.date32()),
            }
        )


@dataclass(frozen=True)
class _Pinned:
    release: Release
    model: Model
    reader: Reader


class Scorer:
    """Scores from one pinned release. `refresh` moves on to the current one; calls under way finish on theirs."""

    def __init__(self, store: Store, application: Application) -> None:
        self._store = store
        self._application = application
        self._pinned = _pin(store, application, None)

    @classmethod
    def open(cls, store_url: str, application: Application) -> Self:
        """Pin the current release.

        Raises:
            StoreError: nothing was published, or the store can't be read.
            IntegrityError: the model is not the one that was released.
            ConfigError: the model does not fit the application.
        """
        return cls(open_store(store_url, application.name), application)

    @property
    def release(self) -> Release:
        """What answers now."""
        return self._pinned.release

    def refresh(self) -> bool:
        """Pin the current release; whether it was another one."""
        before = self._pinned
        self._pinned = _pin(self._store, self._application, before)
        return self._pinned is not before

    def score_table(self, table: pa.Table, now: datetime | None = None) -> Scores:
        """Score candidates.

        Args:
            table: R rows with the key columns of every task definition, the other features and, unless every task is
                known, the meta features: all or none of them.
            now: when the answer is given; by default, the current time.

        Raises:
            DataError: columns are missing or of a wrong type, a key is null, a feature is infinite.
            StoreError: the store can't be read.
        """
        pinned, application = self._pinned, self._application
        has_meta = requests.has_meta(application, table)
        other = requests.encode(application.features.other, table)
        found, embedding = _stored(pinned.reader, application, table)
        cold = np.flatnonzero(~found.all(axis=1))
        unadapted, has_features = _unadapted(pinned.model, application, table, cold, has_meta, other)
        missing = ~found[cold]
        embedding[cold] = np.where(missing[:, :, None], unadapted, embedding[cold])
        age = ((now or datetime.now(UTC)) - pinned.release.cutoff).total_seconds()
        known = FRESH if age <= application.monitoring.maximum_age_hours * 3600 else STALE
        reason = np.full(len(table), known, dtype="<U9")
        reason[cold] = np.where((missing & ~has_features).any(axis=1), DEFAULT, ZERO_SHOT)
        return Scores(
            probability=_finite(pinned.model.score(_joined(embedding), *other)),
            reason=reason,
            age_seconds=np.where(found.any(axis=1), age, np.nan),
            model_version=pinned.release.model_version,
            generation=pinned.release.generation,
            as_of=pinned.release.as_of,
        )


class BaselineScorer:
    """The vanilla model trained beside a model, behind the same method: the control arm of an A/B test."""

    def __init__(self, model: Model, application: Application) -> None:
        self._model = model
        self._application = application

    @classmethod
    def open(cls, model_uri: str, application: Application) -> Self:
        """Load the baseline that was trained beside a model.

        Raises:
            DataError, IntegrityError, ConfigError: as `limaml.model.load_model`.
        """
        return cls(load_model(model_uri, application, algorithm="vanilla"), application)

    def score_table(self, table: pa.Table, now: datetime | None = None) -> Scores:
        """Score candidates; `now` changes nothing here.

        Raises:
            DataError: columns are missing or of a wrong type, or a feature is infinite.
        """
        del now
        rows = np.arange(len(table))
        has_meta = requests.has_meta(self._application, table)
        other = requests.encode(self._application.features.other, table)
        embedding, _ = _unadapted(self._model, self._application, table, rows, has_meta, other)
        return Scores(
            probability=_finite(self._model.score(_joined(embedding), *other)),
            reason=np.full(len(rows), VANILLA),
            age_seconds=np.full(len(rows), np.nan),
            model_version=self._model.version,
        )


def _pin(store: Store, application: Application, before: _Pinned | None) -> _Pinned:
    for attempt in range(_PIN_ATTEMPTS):
        release = store.current()
        if release is None:
            raise StoreError(f"{store.url}: no release of {application.name} yet; a promoted training publishes one")
        if before is not None and before.release == release:
            return before
        try:
            reader = open_generation(store, release.generation)
            break
        except StoreError:
            # The pointer may have moved twice since it was read, and the generation be collected: look again.
            if attempt == _PIN_ATTEMPTS - 1 or store.current() == release:
                raise
    if before is not None and before.model.digest == release.model_digest:
        model = before.model
    else:
        model = load_model(release.model_uri, application)
    if model.digest != release.model_digest or model.version != release.model_version:
        raise IntegrityError(
            f"{release.model_uri}: is model {model.version} ({model.digest[:12]}…), but release {release.number} names "
            f"{release.model_version} ({release.model_digest[:12]}…); restore that model, or publish again"
        )
    made_by = reader.generation
    if made_by.model_version != model.version or made_by.width != model.embedding_width:
        raise IntegrityError(
            f"{store.url}: generation {made_by.name} was made by model {made_by.model_version}, "
            f"release {release.number} names {model.version}; roll back"
        )
    log.info("scoring: pinned release %s of model %s", release.name, release.model_version)
    return _Pinned(release, model, reader)


def _stored(
    reader: Reader, application: Application, table: pa.Table
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """[R, K] whether the store holds the embedding of a row's task in each definition, and [R, K, W] those it holds."""
    found, embeddings = [], []
    for name, definition in zip(application.definition_names, application.definitions, strict=True):
        task_ids, task_of_row = requests.distinct_tasks(definition.keys, table)
        records = reader.get([stored_id(name, task) for task in task_ids])
        found.append(records.found[task_of_row])
        embeddings.append(records.embedding[task_of_row])
    return np.stack(found, axis=1), np.stack(embeddings, axis=1)


def _unadapted(
    model: Model,
    application: Application,
    table: pa.Table,
    rows: npt.NDArray[np.int64],
    has_meta: bool,
    other: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Embeddings [N, K, W] of N rows without adaptation, and [N, K] whether a row had any feature to make it from."""
    shape = (len(rows), model.definitions, model.embedding_width)
    embedding = np.tile(model.default_embedding, (len(rows), 1)).reshape(shape)
    has_features = np.zeros(shape[:2], dtype=bool)
    if not len(rows) or not (has_meta or application.also):
        return embedding, has_features
    asked = table.take(pa.array(rows))
    meta = requests.encode(application.features.meta, asked) if has_meta else requests.nulls(application, len(rows))
    other = (other[0][rows], other[1][rows])
    features = (np.concatenate([meta[0], other[0]], axis=1), np.concatenate([meta[1], other[1]], axis=1))
    known = [requests.describes(application, each, *features) for each in application.definitions]
    has_features = np.stack(known, axis=1)
    embedding[has_features] = model.zero_shot(*meta, *other).reshape(shape)[has_features]
    return embedding, has_features


def _finite(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(probability).all():
        row = int(np.flatnonzero(~np.isfinite(probability))[0])
        raise DataError(f"row {row}: the model's score is not a number; its features are far outside the training data")
    return probability


def _joined(embedding: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[R, K·W] of [R, K, W]."""
    rows, definitions, width = embedding.shape
    return embedding.reshape(rows, definitions * width)
