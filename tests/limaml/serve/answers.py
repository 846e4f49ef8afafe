"""Requests and answers of the small application, as the service hands them to its exposure log."""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from limaml.config import Application
from limaml.experiment.assignment import Assigner
from limaml.online.columns import Columns, Encoder
from limaml.online.scoring import Scores
from limaml.serve.exposure_rows import Exposure

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def with_log(application: Application, url: str, **options: Any) -> Application:
    """The application with an exposure log that writes at once what a test waits for."""
    exposures = {"url": url, "journal_seconds": 0.01, **options}
    experiment = application.experiment.model_dump() | {"exposures": exposures}
    return Application.model_validate(application.model_dump() | {"experiment": experiment})


def request_of(application: Application, member: Any, items: list[Any], seed: int = 0) -> Columns:
    """A member's features once, candidates' features row by row; some of them null."""
    rng = np.random.default_rng([seed, len(items)])
    values: dict[str, list[Any]] = {"member_id": [member], "item_id": items}
    for feature in application.features.all:
        rows = 1 if feature in application.features.meta else len(items)
        numbers = rng.normal(size=rows).tolist()
        texts = [f"{feature.name}-{place}" for place in rng.integers(0, 4, rows)]
        column: list[Any] = numbers if feature.kind == "numeric" else texts
        values[feature.name] = [None if rng.random() < 0.1 else value for value in column]
    return Columns(len(items), values)


def answered(
    application: Application, number: int, member: Any = 7, rows: int = 3, at: datetime = NOON, **changes: Any
) -> Exposure:
    """An answer with scores by chance, of a release of no model."""
    rng = np.random.default_rng(number)
    columns = request_of(application, member, rng.permutation(1000)[:rows].tolist(), number)
    scores = Scores(
        probability=rng.random(rows).astype(np.float32),
        reason=rng.choice(["fresh", "zero_shot"], rows),
        age_seconds=np.where(rng.random(rows) < 0.5, np.nan, 3600.0),
        model_version="m1",
        generation="20260301-0123456789ab",
    )
    fields: dict[str, Any] = {
        "request_id": f"request-{number}",
        "member": member,
        "columns": columns,
        "candidates": Encoder(application).candidates(columns),
        "scores": scores,
        "assigned": Assigner(application.experiment).arm(member),
        "at": at,
    }
    return Exposure(**fields | changes)
