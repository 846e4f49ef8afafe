"""Answers as rows of the exposure log: everything an A/B report needs, and what is needed to answer once more."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from limaml.config import Application
from limaml.data.digests import row_digests
from limaml.data.features import category_text
from limaml.experiment.assignment import Assigned
from limaml.experiment.exposures import (
    COHORT,
    EMBEDDING_AGE,
    EXPERIMENT,
    GENERATION,
    ITEM,
    POSITION,
    REASON,
    REQUEST,
    SCORE,
    VARIANT,
    exposure_schema,
)
from limaml.online.columns import Columns
from limaml.online.requests import Candidates
from limaml.online.scoring import Scores
from limaml.schema import EVENT_TIME, LABEL, MEMBER, MODEL_VERSION

# What the request said of a candidate, and a digest of what the network read of it.
FEATURES = "features"
FEATURES_DIGEST = "features_digest"

_LARGEST_MEMBER = 2**63


@dataclass(frozen=True)
class Exposure:
    """One request's answer.

    Attributes:
        request_id: its identity; a request that is sent again has the same one.
        member: who asked.
        columns, candidates: what was asked, as it came and as the network read it.
        scores: what was answered.
        assigned: the test and arm that answered.
        at: when, UTC.
        cohort: the member's, where it is known.
    """

    request_id: str
    member: int | str
    columns: Columns
    candidates: Candidates
    scores: Scores
    assigned: Assigned
    at: datetime
    cohort: str | None = None


_Asked = list[tuple[Exposure, np.ndarray]]


class ExposureRows:
    """Answers as rows of the log."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._options = application.experiment.exposures
        self._asked = asked_columns(application)
        self.schema = exposure_schema(pa.string(), pa.string())
        if self._options.features:
            self.schema = self.schema.append(pa.field(FEATURES, pa.struct(list(self._asked.items()))))
            self.schema = self.schema.append(pa.field(FEATURES_DIGEST, pa.uint64()))

    def table(self, exposures: Sequence[Exposure]) -> pa.Table:
        """The rows of some answers, each one's best candidates first."""
        order = [np.argsort(-each.scores.probability, kind="stable") for each in exposures]
        best = [each[: self._options.positions or None] for each in order]
        asked = list(zip(exposures, best, strict=True))
        request_of_row = pa.array(np.repeat(np.arange(len(best)), [len(each) for each in best]))

        def of_request(values: Iterable[Any], name: str) -> pa.Array:
            return pa.array(list(values), self.schema.field(name).type).take(request_of_row)

        items = _values(asked, self._application.data.item_column)
        values: dict[str, Any] = {
            EXPERIMENT: of_request((each.assigned.experiment for each in exposures), EXPERIMENT),
            REQUEST: of_request((each.request_id for each in exposures), REQUEST),
            MEMBER: of_request((member_number(each.member) for each in exposures), MEMBER),
            ITEM: pa.array([None if item is None else str(item) for item in items], pa.string()),
            POSITION: pa.array(np.concatenate([np.arange(1, len(each) + 1) for each in best]), pa.int32()),
            VARIANT: of_request((each.assigned.variant for each in exposures), VARIANT),
            SCORE: pa.array(np.concatenate([each.scores.probability[rows] for each, rows in asked])),
            MODEL_VERSION: of_request((each.scores.model_version for each in exposures), MODEL_VERSION),
            GENERATION: of_request((each.scores.generation for each in exposures), GENERATION),
            REASON: pa.array(np.concatenate([each.scores.reason[rows] for each, rows in asked]).tolist(), pa.string()),
            EMBEDDING_AGE: pa.array(
                np.concatenate([each.scores.age_seconds[rows] for each, rows in asked]), pa.float32(), from_pandas=True
            ),
            COHORT: of_request((each.cohort for each in exposures), COHORT),
            EVENT_TIME: of_request((each.at for each in exposures), EVENT_TIME),
            LABEL: pa.nulls(len(request_of_row), pa.int8()),
        }
        if self._options.features:
            values[FEATURES] = pa.StructArray.from_arrays(self._features(asked), list(self._asked))
            digests = [features_digests(self._application, each.candidates)[rows] for each, rows in asked]
            values[FEATURES_DIGEST] = pa.array(np.concatenate(digests))
        return pa.table([values[field.name] for field in self.schema], schema=self.schema)

    def _features(self, asked: _Asked) -> list[pa.Array]:
        numbers = {
            feature.name: column
            for number, side in enumerate((self._application.features.meta, self._application.features.other))
            for feature, column in zip(
                [feature for feature in side if feature.kind == "numeric"], _numbers(asked, number).T, strict=False
            )
        }
        columns = []
        for name, kind in self._asked.items():
            if kind == pa.float32():
                column = numbers.get(name, np.full(sum(len(rows) for _, rows in asked), np.nan))
                columns.append(pa.array(column, kind, from_pandas=True))
            elif kind == pa.string():
                columns.append(pa.array([category_text(value) for value in _values(asked, name)], kind))
            else:
                columns.append(pa.array(_values(asked, name), kind))
        return columns


def asked_columns(application: Application) -> dict[str, pa.DataType]:
    """What a request says of a candidate: key columns and features, in types that encode to what the request did."""
    numeric = {feature.name for feature in application.features.all if feature.kind == "numeric"}
    names = dict.fromkeys((*application.key_columns, *(feature.name for feature in application.features.all)))
    number = {name: pa.int64() if name in application.key_columns else pa.float32() for name in numeric}
    return {name: number.get(name, pa.string()) for name in names}


def _numbers(asked: _Asked, side: int) -> np.ndarray:
    """[rows, n] numeric features of the meta side (0) or of the others (1), as the network read them."""
    both = [(each.candidates.meta, each.candidates.other)[side] for each, _ in asked]
    width = max((encoded[0].shape[1] for encoded in both if encoded is not None), default=0)
    return np.concatenate(
        [
            np.full((len(rows), width), np.nan, np.float32) if encoded is None else encoded[0][rows]
            for encoded, (_, rows) in zip(both, asked, strict=True)
        ]
    )


def _values(asked: _Asked, name: str) -> list[Any]:
    """A column of what was asked, None where a request had none."""
    found: list[Any] = []
    for exposure, rows in asked:
        values = exposure.columns.values.get(name, [None])
        found += values * len(rows) if len(values) == 1 else [values[row] for row in rows.tolist()]
    return found


def features_digests(application: Application, candidates: Candidates) -> np.ndarray:
    """[R] uint64 digests of what the network reads of candidates; features that are not there are nulls."""
    meta, _ = candidates.of_definitions(application)
    return row_digests(*meta, *candidates.other)


def member_number(member: int | str) -> int | None:
    """A member's id as logs keep it; None where it is no whole number below 2^63."""
    try:
        number = int(member)
    except ValueError:
        return None
    return number if -_LARGEST_MEMBER <= number < _LARGEST_MEMBER else None
