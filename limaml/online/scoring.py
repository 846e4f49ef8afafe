"""Scoring from a release: the model it names, reading only the embeddings made by that model.

Every answer says why it is what it is. A task without an embedding is scored by the un-adapted meta block; a read that
failed is an error, and never passes for such a task.
Of several task definitions, each has an embedding of its own for a row; one that has none does not spoil the others.

Shapes: R rows, one (task, item) candidate each; K task definitions; W width of an embedding.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml.config import Application
from limaml.errors import DataError, IntegrityError, NoRelease, StoreError
from limaml.model import Model, load_model
from limaml.online.overlay import open_generation
from limaml.online.records import Records
from limaml.online.requests import Candidates, candidates_of_table
from limaml.online.runtime import Runtime, TorchRuntime
from limaml.online.store import Reader, Release, Store, open_store

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
class Pinned:
    """One release, whole: its model, its embeddings, and what computes the scores."""

    application: Application
    release: Release
    model: Model
    runtime: Runtime
    reader: Reader

    @cached_property
    def _cutoff(self) -> float:
        return self.release.cutoff.timestamp()

    @cached_property
    def _maximum_age(self) -> float:
        return self.application.monitoring.maximum_age_hours * 3600

    def fetch(self, candidates: Candidates) -> list[Records]:
        """What the store holds of the candidates' tasks, by definition.

        Raises:
            StoreError: the store can't be read.
            DataError: a key that no store can hold.
        """
        return [self.reader.get(tasks.stored) for tasks in candidates.tasks]

    def score(self, candidates: Candidates, records: Sequence[Records] | None, now: datetime | None = None) -> Scores:
        """Score candidates from what was fetched for them.

        Args:
            candidates: R candidates.
            records: of every definition; None scores everybody as without an embedding, which is for a caller to say
                when the store could not be read.
            now: when the answer is given; by default, the current time.

        Raises:
            DataError: a score is not a number.
        """
        release = self.release
        age = (time.time() if now is None else now.timestamp()) - self._cutoff
        known = FRESH if age <= self._maximum_age else STALE
        reason = np.full(candidates.rows, known, dtype="<U9")
        ages = np.full(candidates.rows, age)
        if records is not None and all(each.complete for each in records):
            # What is met most, and waited for: nothing to fill in.
            each = [part.embedding.take(tasks.of_row, 0) for tasks, part in zip(candidates.tasks, records, strict=True)]
            embedding = each[0] if len(each) == 1 else np.concatenate(each, axis=1)
        else:
            found, embedding = self._filled(candidates, records, reason)
            ages[~found.any(axis=1)] = np.nan
        return Scores(
            probability=finite(self.runtime.score(embedding, *candidates.other)),
            reason=reason,
            age_seconds=ages,
            model_version=release.model_version,
            generation=release.generation,
            as_of=release.as_of,
        )

    def _filled(
        self, candidates: Candidates, records: Sequence[Records] | None, reason: npt.NDArray[np.str_]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """[R, K] whether the store holds the embedding of a row's task, and [R, K·W] those it holds beside un-adapted
        ones; `reason` is told of rows that got one of those.
        """
        shape = (candidates.rows, self.model.definitions)
        found = np.zeros(shape, bool)
        embedding = np.zeros((*shape, self.model.embedding_width), np.float32)
        for number, (tasks, of_tasks) in enumerate(zip(candidates.tasks, records or (), strict=records is not None)):
            found[:, number] = of_tasks.found[tasks.of_row]
            embedding[:, number] = of_tasks.embedding[tasks.of_row]
        cold = np.flatnonzero(~found.all(axis=1))
        missing = ~found[cold]
        unadapted, described = _unadapted(self.model, self.runtime, self.application, candidates.take(cold))
        embedding[cold] = np.where(missing[:, :, None], unadapted, embedding[cold])
        reason[cold] = np.where((missing & ~described).any(axis=1), DEFAULT, ZERO_SHOT)
        return found, _joined(embedding)


class Scorer:
    """Scores from one pinned release. `refresh` moves on to the current one; calls under way finish on theirs."""

    def __init__(self, store: Store, application: Application) -> None:
        self._store = store
        self._application = application
        self._pinned = pin(store, application, None)

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
        self._pinned = pin(self._store, self._application, before)
        return self._pinned is not before

    def score_table(self, table: pa.Table, now: datetime | None = None) -> Scores:
        """Score the candidates of a table (`limaml.online.requests.candidates_of_table`).

        `now` is when the answer is given; by default, the current time.

        Raises:
            DataError: columns are missing or of a wrong type, a key is null, a feature is infinite.
            StoreError: the store can't be read.
        """
        pinned = self._pinned
        candidates = candidates_of_table(self._application, table)
        return pinned.score(candidates, pinned.fetch(candidates), now)


class BaselineScorer:
    """The vanilla model trained beside a model, behind the same method: the control arm of an A/B test."""

    def __init__(self, model: Model, application: Application, runtime: Runtime | None = None) -> None:
        self._model = model
        self._application = application
        self._runtime = runtime or TorchRuntime(model)

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
        return self.score(candidates_of_table(self._application, table, keyed=False))

    def score(self, candidates: Candidates) -> Scores:
        """Score candidates; their tasks change nothing here."""
        embedding, _ = _unadapted(self._model, self._runtime, self._application, candidates)
        probability = self._runtime.score(_joined(embedding), *candidates.other)
        return Scores(
            probability=finite(probability),
            reason=np.full(candidates.rows, VANILLA),
            age_seconds=np.full(candidates.rows, np.nan),
            model_version=self._model.version,
        )


def pin(
    store: Store,
    application: Application,
    before: Pinned | None,
    runtime_of: Callable[[Model], Runtime] = TorchRuntime,
    number: int | None = None,
) -> Pinned:
    """The current release, or the one of a number, loaded and checked; `before` itself where that is still the one.

    Raises:
        StoreError: there is no such release, or the store can't be read.
        IntegrityError: the model is not the one that was released.
        ConfigError: the model does not fit the application.
    """
    for attempt in range(_PIN_ATTEMPTS):
        release = _find(store, application, number)
        if before is not None and before.release == release:
            return before
        try:
            reader = open_generation(store, release.generation)
            break
        except StoreError:
            # The pointer may have moved twice since it was read, and the generation be collected: look again.
            if attempt == _PIN_ATTEMPTS - 1 or _find(store, application, number) == release:
                raise
    kept = before is not None and before.model.digest == release.model_digest
    model = before.model if before is not None and kept else load_model(release.model_uri, application)
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
    runtime = before.runtime if before is not None and kept else runtime_of(model)
    return Pinned(application, release, model, runtime, reader)


def _find(store: Store, application: Application, number: int | None) -> Release:
    if number is None:
        release = store.current()
        if release is None:
            raise NoRelease(f"{store.url}: no release of {application.name} yet; a promoted training publishes one")
        return release
    for release in store.releases():
        if release.number == number:
            return release
    raise StoreError(f"{store.url}: there was never a release {number}; `limaml release list` names them all")


def _unadapted(
    model: Model, runtime: Runtime, application: Application, candidates: Candidates
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Embeddings [R, K, W] without adaptation, and [R, K] whether a row had any feature to make one from."""
    shape = (candidates.rows, model.definitions, model.embedding_width)
    embedding = np.tile(model.default_embedding, (candidates.rows, 1)).reshape(shape)
    meta, described = candidates.of_definitions(application)
    if described.any():
        embedding[described] = runtime.zero_shot(*meta, *candidates.other).reshape(shape)[described]
    return embedding, described


def finite(probability: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The scores [R] themselves.

    Raises:
        DataError: one is not a number.
    """
    if not np.isfinite(probability).all():
        row = int(np.flatnonzero(~np.isfinite(probability))[0])
        raise DataError(f"row {row}: the model's score is not a number; its features are far outside the training data")
    return probability


def _joined(embedding: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[R, K·W] of [R, K, W]."""
    rows, definitions, width = embedding.shape
    return embedding.reshape(rows, definitions * width)
