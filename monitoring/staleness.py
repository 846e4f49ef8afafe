"""Whether what is served is recent, complete, of one model, and under the right keys."""

from datetime import datetime, timedelta

from limaml.config import Monitoring
from limaml.online.canary import CANARY_MISMATCH, Canary
from limaml.online.store import Release
from monitoring.checks import Check, at_least, at_most, equal

_HOUR = timedelta(hours=1)


def hours(span: timedelta) -> float:
    """A time span in hours."""
    return span / _HOUR


def release_checks(release: Release, model_version: str, model_digest: str, embeddings_digest: str) -> list[Check]:
    """That the store serves these embeddings, and the model that made them."""
    publish = "publish the embeddings again; if a newer or a rolled back release is meant, monitor that one"
    pair = "roll back: a model can read only embeddings it has made itself"
    return [
        equal("model_version", "Model of the release", release.model_version, model_version, pair),
        equal("model_digest", "Model files of the release", _short(release.model_digest), _short(model_digest), pair),
        equal(
            "embeddings_digest",
            "Embeddings of the release",
            _short(release.embeddings_digest),
            _short(embeddings_digest),
            publish,
        ),
    ]


def age_checks(release: Release, now: datetime, limits: Monitoring) -> list[Check]:
    """How old the release is, and how far the newest event it has seen lies before its cutoff; in hours."""
    age, lag = hours(now - release.cutoff), hours(release.cutoff - release.newest_event_time)
    return [
        at_most(
            "age_hours",
            "Hours since the release was computed",
            age,
            limits.maximum_age_hours,
            "look at the last refresh runs; start one by hand",
        ),
        at_most(
            "event_lag_hours",
            "Hours from the newest event to the cutoff",
            lag,
            limits.maximum_event_lag_hours,
            "upstream delivers late: look at the newest partitions of the interactions",
        ),
    ]


def coverage_check(found: int, active: int, limits: Monitoring) -> Check:
    """Share of the active tasks that find an embedding; the others are served zero-shot."""
    return at_least(
        "coverage_ratio",
        "Active tasks that find an embedding",
        found / active if active else float("nan"),
        limits.minimum_coverage,
        "publish again; if it stays low, compare the task keys of requests with those of the embeddings",
    )


def canary_check(canary: Canary) -> Check:
    """No distribution test sees embeddings under the wrong keys; this does."""
    return at_most(
        "canary_mismatch_ratio",
        f"Tasks of {canary.tasks} whose stored embedding is not the one made anew",
        canary.mismatches / canary.tasks if canary.tasks else float("nan"),
        CANARY_MISMATCH,
        "roll back: the store returns embeddings that this model does not make for these tasks",
    )


def _short(digest: str) -> str:
    return digest[:16]
