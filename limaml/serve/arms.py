"""The A/B tests a service takes part in: which scorer a request's member gets, and the record of what it answered."""

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from limaml.config import Application
from limaml.experiment.assignment import Assigned, Assigner
from limaml.model import Model, load_model
from limaml.online.columns import Columns
from limaml.online.requests import Candidates
from limaml.online.runtime import Runtime
from limaml.online.scoring import BaselineScorer, Pinned, Scores, pin
from limaml.online.store import Store
from limaml.online_sections import Served
from limaml.serve.exposure_rows import Exposure
from limaml.serve.exposures import exposure_log
from limaml.serve.metrics import Metrics

CURRENT = "current"

_LONGEST_REQUEST_ID = 128


class Arms:
    """Assignment and exposure log of one worker. Without a log no test runs: nobody would know who was in which arm."""

    def __init__(self, store: Store, application: Application, metrics: Metrics) -> None:
        """Start the log, where there is one.

        Raises:
            ConfigError, StorageError: as `limaml.serve.exposures.exposure_log`.
        """
        experiment = application.experiment
        self._store, self._application = store, application
        self._log = exposure_log(application, lambda outcome, rows: metrics.exposures.labels(outcome).inc(rows))
        self._assigner = Assigner(experiment)
        arms: list[Served] = [arm for trial in experiment.trials for arm in (trial.control, trial.treatment)]
        self._served: list[Served] = [*arms, experiment.otherwise] if self._log else []

    def load(self, pinned: Pinned, runtime_of: Callable[[Model], Runtime]) -> dict[Served, Pinned | BaselineScorer]:
        """What arms other than the current release need, ready to score, beside a release just loaded.

        Raises:
            StoreError: a release that an arm names is not there any more, or as `limaml.online.scoring.pin`.
        """
        others: dict[Served, Pinned | BaselineScorer] = {}
        for served in self._served:
            if served in others or served == CURRENT:
                continue
            if served == "vanilla":
                model = load_model(pinned.release.model_uri, self._application, algorithm="vanilla")
                others[served] = BaselineScorer(model, self._application, runtime_of(model))
            else:
                others[served] = pin(self._store, self._application, None, runtime_of, served)
        return others

    def assign(self, columns: Columns) -> Assigned:
        """The arm of a request's member; who names no member, or several, is in no test."""
        if self._log is None:
            return Assigned(CURRENT)
        members = columns.values.get(self._application.data.member_column) or [None]
        if type(members[0]) in (int, str) and members.count(members[0]) == len(members):
            return self._assigner.arm(members[0])
        return Assigned(self._application.experiment.otherwise)

    def record(
        self, request_id: str | None, columns: Columns, candidates: Candidates, scores: Scores, assigned: Assigned
    ) -> Mapping[str, str]:
        """Record an answer to a member in a test; what the answer says of it.

        `request_id` is what the caller calls the request, if it does: the same one for a request sent again.
        """
        if self._log is None or not assigned.experiment:
            return {}
        known = request_id is not None and request_id.isprintable() and 0 < len(request_id) <= _LONGEST_REQUEST_ID
        name = request_id if request_id is not None and known else uuid.uuid4().hex
        member = columns.values[self._application.data.member_column][0]
        self._log.record(Exposure(name, member, columns, candidates, scores, assigned, datetime.now(UTC)))
        return {"request_id": name, "experiment": assigned.experiment, "variant": assigned.variant}

    def close(self) -> None:
        """Write what is recorded; called when the last request is answered."""
        if self._log is not None:
            self._log.close()
