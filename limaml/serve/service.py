"""The scorer as a service: one release held ready, swapped for the next one in the background, and answers with their
reason whatever the store does.

Shapes: R candidates.
"""

import asyncio
import gc
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import numpy as np

from limaml.config import Application
from limaml.errors import LimamlError, NoRelease, StoreError
from limaml.online.overlay import chain
from limaml.online.records import Records
from limaml.online.requests import Candidates, Tasks
from limaml.online.runtime import load_runtime
from limaml.online.scoring import BaselineScorer, Pinned, Scores, pin
from limaml.online.store import Release, Store
from limaml.online_sections import Served
from limaml.serve.arms import CURRENT, Arms
from limaml.serve.breaker import Breaker
from limaml.serve.logs import logger
from limaml.serve.metrics import Metrics

WARM_ROWS = (1, 50)
_LONGEST_PAUSE = 60.0

StoreState = Literal["ok", "unavailable", "timeout"]


class NotReady(Exception):
    """No release is loaded yet, or the process is on its way out."""


@dataclass(frozen=True)
class Answer:
    """Scores of R candidates and what they rest on.

    Attributes:
        scores: probabilities and reason codes.
        release: the release that answered.
        store: `ok`, or why embeddings could not be read: then nobody's was used, though they may have one.
        exposed: request id, test and arm, where the answer was recorded as an exposure.
    """

    scores: Scores
    release: Release
    store: StoreState
    exposed: Mapping[str, str] = field(default_factory=dict)


class Service:
    """Holds a release and answers from it. Everything but `load` runs on one event loop.

    `drained_since` is when the process was told to end, on the monotonic clock; None before.
    """

    def __init__(self, store: Store, application: Application, metrics: Metrics) -> None:
        self.application = application
        self.metrics = metrics
        self.drained_since: float | None = None
        self.pinned: Pinned | None = None
        self.arms = Arms(store, application, metrics)
        self._others: Mapping[Served, Pinned | BaselineScorer] = {}
        self._store = store
        self._settings = application.serve
        self._breaker = Breaker(self._settings.breaker_failures, self._settings.breaker_seconds)
        self._runtime_of = partial(load_runtime, choice=self._settings.runtime)
        self._audited: set[str] = set()
        self._unpublished = False
        # An embedded store answers in microseconds: a thread would cost more than the read.
        self._embedded = store.url.startswith("lmdb:")
        self._readers = ThreadPoolExecutor(self._settings.maximum_in_flight, "store")
        self._loader = ThreadPoolExecutor(1, "loader")

    @property
    def ready(self) -> bool:
        """Whether a release is loaded and checked, and the process stays."""
        return self.pinned is not None and self.drained_since is None

    @property
    def routable(self) -> bool:
        """Whether requests should come here: ready, or there is nothing yet that any process could be ready with."""
        waiting = self._settings.ready_without_release and self._unpublished and self.drained_since is None
        return self.ready or waiting

    async def follow(self) -> None:
        """Load the current release, then every newer one, until cancelled."""
        failures = 0
        while True:
            failures = 0 if await self.refresh() else failures + 1
            await asyncio.sleep(min(_LONGEST_PAUSE, self._settings.poll_seconds * 2 ** min(failures, 10)))

    async def refresh(self) -> bool:
        """Move on to the current release, if there is one and it is another; False where it can't be told or loaded."""
        before, started = self.pinned, time.perf_counter()
        try:
            pinned, others = await asyncio.get_running_loop().run_in_executor(self._loader, self._load_all)
        except LimamlError as error:
            waited, self._unpublished = self._unpublished, before is None and isinstance(error, NoRelease)
            if self._unpublished:
                if not waited:
                    logger().info("waiting_for_the_first_release", reason=str(error))
                return True
            self.metrics.swaps.labels("failed").inc()
            logger().error("release_not_loaded", error=type(error).__name__, reason=str(error), serving=_number(before))
            return False
        self.metrics.release_age.set((datetime.now(UTC) - pinned.release.cutoff).total_seconds())
        if pinned is not before:
            self.pinned, self._others, self._unpublished = pinned, others, False
            self.metrics.swaps.labels("done").inc()
            self.metrics.release.set(pinned.release.number)
            self.metrics.ready.set(1)
            logger().info(
                "release_serving",
                release=pinned.release.number,
                before=_number(before),
                model_version=pinned.release.model_version,
                generation=pinned.release.generation,
                runtime=pinned.runtime.name,
                seconds=round(time.perf_counter() - started, 3),
            )
        return True

    def _load_all(self) -> tuple[Pinned, Mapping[Served, Pinned | BaselineScorer]]:
        pinned = self.load()
        return pinned, self._others if pinned is self.pinned else self.arms.load(pinned, self._runtime_of)

    def load(self) -> Pinned:
        """The current release, its model's and its generation's sums checked, and warm; the one held, where it is that.

        Raises:
            StoreError, IntegrityError, ConfigError: as `limaml.online.scoring.pin`, or a generation differs from its
                sums.
        """
        pinned = pin(self._store, self.application, self.pinned, self._runtime_of)
        if pinned is not self.pinned:
            if self._settings.audit:
                self._audit(pinned.release.generation)
            warm_up(pinned)
            if self.pinned is None:
                # Libraries stay: nothing for the collector to walk through while requests wait. Only now, since what a
                # release leaves behind has to be collected one day.
                gc.unfreeze()
                gc.collect()
                gc.freeze()
        return pinned

    def _audit(self, generation: str) -> None:
        names = [layer.name for layer in chain(self._store, generation)]
        for name in names:
            if name not in self._audited:
                self._store.audit(name)
        self._audited = set(names)

    async def answer(self, candidates: Candidates, deadline: float, served: Served = CURRENT) -> Answer:
        """Score candidates by the current release, or by what an arm names.

        `deadline` is when the store's answer is no longer waited for, on the loop's clock.

        Raises:
            NotReady: there is nothing to answer from.
            DataError: a key no store can hold, or a score that is not a number.
        """
        pinned = self.pinned
        if pinned is None:
            raise NotReady
        scorer = pinned if served == CURRENT else self._others[served]
        if isinstance(scorer, BaselineScorer):
            answer = Answer(scorer.score(candidates), pinned.release, "ok")
        else:
            records, store = await self._fetch(scorer, candidates, deadline)
            answer = Answer(scorer.score(candidates, records), scorer.release, store)
        self._count(answer)
        return answer

    async def _fetch(
        self, pinned: Pinned, candidates: Candidates, deadline: float
    ) -> tuple[Sequence[Records] | None, StoreState]:
        breaker = self._breaker
        if not breaker.allows():
            return None, "unavailable"
        try:
            if self._embedded:
                records = pinned.fetch(candidates)
            else:
                loop = asyncio.get_running_loop()
                async with asyncio.timeout_at(deadline):
                    records = await loop.run_in_executor(self._readers, pinned.fetch, candidates)
        except (StoreError, TimeoutError) as error:
            self._failed(error)
            return None, "timeout" if isinstance(error, TimeoutError) else "unavailable"
        if breaker.open:
            logger().info("store_breaker_closed")
            self.metrics.breaker.set(0)
        breaker.succeeded()
        return records, "ok"

    def _failed(self, error: Exception) -> None:
        was_open = self._breaker.open
        self._breaker.failed()
        if self._breaker.open and not was_open:
            self.metrics.breaker.set(1)
            logger().error("store_breaker_opened", error=type(error).__name__, seconds=self._settings.breaker_seconds)

    def _count(self, answer: Answer) -> None:
        reasons = answer.scores.reason.tolist()
        for reason in set(reasons):
            self.metrics.candidates.labels(reason).inc(reasons.count(reason))
        if answer.store != "ok":
            self.metrics.degraded.labels(answer.store).inc()

    def close(self) -> None:
        """Let go of threads and of the release, and write what is recorded."""
        self.arms.close()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._loader.shutdown(wait=False, cancel_futures=True)
        for held in (self.pinned, *self._others.values()):
            if isinstance(held, Pinned):
                held.reader.close()


def warm_up(pinned: Pinned) -> None:
    """Score somebody unknown, so that no request is the first to touch a page, a kernel or a branch."""
    features = pinned.application.features
    for rows in WARM_ROWS:
        numeric = [sum(each.kind == "numeric" for each in side) for side in (features.other, features.meta)]
        encoded = [
            (np.zeros((rows, count), np.float32), np.ones((rows, len(side) - count), np.int64))
            for count, side in zip(numeric, (features.other, features.meta), strict=True)
        ]
        nobody = Tasks(["\\warm-up"], np.zeros(rows, np.intp))
        candidates = Candidates(rows, (nobody,) * pinned.model.definitions, *encoded)
        pinned.score(candidates, pinned.fetch(candidates))


def _number(pinned: Pinned | None) -> int | None:
    return None if pinned is None else pinned.release.number
