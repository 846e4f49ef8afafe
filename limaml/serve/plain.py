"""`POST /v1/score`: this member, these candidates."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import orjson

from limaml.config import Application
from limaml.errors import DataError
from limaml.online.columns import Columns, shown
from limaml.online.scoring import DEFAULT, FRESH, STALE, VANILLA, ZERO_SHOT, Scores
from limaml.serve.guard import Refused
from limaml.serve.service import Answer

FIELDS = ("task", "features", "candidates")
# From the one that knew most to the one that knew least.
REASONS = (FRESH, STALE, ZERO_SHOT, DEFAULT, VANILLA)


def parse(body: bytes) -> Any:
    """A JSON body.

    Raises:
        Refused: it is none.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON: {error}") from error


class PlainRequests:
    """Reads one application's requests."""

    def __init__(self, application: Application) -> None:
        features = (feature.name for feature in application.features.all)
        names = (application.data.member_column, application.data.item_column, *application.key_columns, *features)
        self._wanted = tuple(dict.fromkeys(names))
        self._maximum = application.serve.maximum_candidates

    def columns(self, body: Any) -> Columns:
        """A request's rows by column; what `task` and `features` say is said of every candidate.

        Raises:
            DataError: a field is missing, unknown, of a wrong type, or said twice.
            Refused: there are too many candidates.
        """
        if not isinstance(body, dict):
            raise DataError(f"the body must be an object with {', '.join(FIELDS)}, not {shown(body)}")
        if unknown := [name for name in body if name not in FIELDS]:
            raise DataError(f"unknown field {shown(unknown[0])}; there are {', '.join(FIELDS)}")
        candidates = _candidates(body, self._maximum)
        shared = _shared(body)
        first = candidates[0] if candidates else dict.fromkeys(self._wanted)
        own = _alike([name for name in self._wanted if name in first and name not in shared], candidates)
        if own is None:
            names = shared.keys()
            for row, candidate in enumerate(candidates):
                if not names.isdisjoint(candidate):
                    name = next(name for name in candidate if name in shared)
                    raise DataError(f"column {name}, row {row}: said of all candidates already; say it once")
            there = [name for name in self._wanted if name in first or any(name in each for each in candidates)]
            own = {name: _column(name, candidates) for name in there if name not in shared}
        values: dict[str, list[Any]] = {}
        for name in self._wanted:
            if name in own:
                values[name] = own[name]
            elif name in shared:
                values[name] = [shared[name]]
        return Columns(len(candidates), values)


def _alike(names: list[str], candidates: list[dict[str, Any]]) -> dict[str, list[Any]] | None:
    """The columns of candidates that all have these names and no others, as nearly all requests' do; else None."""
    if len(names) < 2 or set(map(len, candidates)) != {len(names)}:
        return None
    try:
        columns = zip(*map(itemgetter(*names), candidates), strict=True)
        return {name: list(column) for name, column in zip(names, columns, strict=True)}
    except KeyError:
        return None


def _candidates(body: dict[str, Any], maximum: int) -> list[dict[str, Any]]:
    candidates = body.get("candidates")
    if not isinstance(candidates, list):
        raise DataError(f"candidates must be a list of objects, not {shown(candidates)}")
    if len(candidates) > maximum:
        raise too_many(len(candidates), maximum)
    for row, candidate in enumerate(candidates):
        if type(candidate) is not dict:
            raise DataError(f"candidates, row {row}: must be an object, not {shown(candidate)}")
    return candidates


def too_many(rows: int, maximum: int) -> Refused:
    """The refusal of more candidates than are scored at once."""
    return Refused(413, f"{rows} candidates, more than {maximum} (serve.maximum_candidates); ask in parts")


def _shared(body: dict[str, Any]) -> Mapping[str, Any]:
    task, features = body.get("task", {}), body.get("features", {})
    for name, value in (("task", task), ("features", features)):
        if type(value) is not dict:
            raise DataError(f"{name} must be an object, not {shown(value)}")
    if twice := task.keys() & features.keys():
        raise DataError(f"column {min(twice)}: in task and in features; say it once")
    return {**task, **features}


def _column(name: str, candidates: list[dict[str, Any]]) -> list[Any]:
    try:
        return [candidate[name] for candidate in candidates]
    except KeyError:
        row = next(row for row, candidate in enumerate(candidates) if name not in candidate)
        raise DataError(
            f"column {name}, row {row}: missing, while other candidates have it; send null for an unknown value"
        ) from None


def ranks(probability: np.ndarray) -> np.ndarray:
    """[R] int64 places by falling probability, from 1; equals keep their order."""
    place = np.empty(len(probability), np.int64)
    place[np.argsort(-probability, kind="stable")] = np.arange(1, len(probability) + 1)
    return place


def described(answer: Answer) -> dict[str, Any]:
    """What an answer rests on; the same in every protocol."""
    release = answer.release
    return {
        "release": release.number,
        "model_version": release.model_version,
        "generation": release.generation,
        "as_of": release.as_of.isoformat(),
        "store": answer.store,
        "degraded": answer.store != "ok",
        **answer.exposed,
    }


def answer_of(application: Application, answer: Answer, columns: Columns) -> bytes:
    """The answer as JSON: candidates in the order they were asked, each beside its item, where it was named."""
    scores = answer.scores
    reasons = scores.reason.tolist()
    rows = zip(scores.probability.tolist(), ranks(scores.probability).tolist(), reasons, strict=True)
    item = application.data.item_column
    items = columns.values.get(item, ())
    candidates: list[dict[str, Any]]
    if len(items) == len(reasons):
        candidates = [
            {item: each, "probability": probability, "rank": rank, "reason": reason}
            for each, (probability, rank, reason) in zip(items, rows, strict=True)
        ]
    else:
        candidates = [
            {"probability": probability, "rank": rank, "reason": reason} for probability, rank, reason in rows
        ]
    return orjson.dumps(
        {
            **described(answer),
            "reason": max(set(reasons), key=REASONS.index, default=None),
            "age_seconds": age_of(scores),
            "candidates": candidates,
        }
    )


def age_of(scores: Scores) -> float | None:
    """How old the embeddings are that were used; None where none was."""
    known = scores.age_seconds[np.isfinite(scores.age_seconds)]
    return float(known[0]) if len(known) else None
