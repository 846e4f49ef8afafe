from datetime import UTC, date, datetime, timedelta
from typing import Literal

import numpy as np
import pytest

from limaml.config import Monitoring
from limaml.online.canary import compare_canary
from limaml.online.store import Release
from monitoring.checks import alarms
from monitoring.staleness import age_checks, canary_check, coverage_check, release_checks

CUTOFF = datetime(2026, 1, 31, tzinfo=UTC)
RELEASE = Release(
    number=1,
    application="small",
    model_version="v1",
    model_uri="file:///model",
    model_digest="m" * 64,
    generation="g1",
    as_of=date(2026, 1, 31),
    cutoff=CUTOFF,
    newest_event_time=CUTOFF - timedelta(minutes=5),
    tasks=10,
    width=3,
    dtype="float16",
    embeddings_digest="e" * 64,
    previous=None,
)


def test_a_release_of_one_model_and_these_embeddings_is_healthy() -> None:
    assert alarms(release_checks(RELEASE, "v1", "m" * 64, "e" * 64)) == []


@pytest.mark.parametrize(
    ("arguments", "alarm"),
    [
        (("v2", "m" * 64, "e" * 64), "model_version"),
        (("v1", "x" * 64, "e" * 64), "model_digest"),
        (("v1", "m" * 64, "x" * 64), "embeddings_digest"),
    ],
)
def test_a_mixture_is_an_alarm(arguments: tuple[str, str, str], alarm: str) -> None:
    found = alarms(release_checks(RELEASE, *arguments))
    assert alarm in {each["name"] for each in found}
    assert all(each["what_to_do"] for each in found)


@pytest.mark.parametrize(("hours", "healthy"), [(0, True), (36, True), (36.1, False), (72, False)])
def test_age_counts_from_the_cutoff(hours: float, healthy: bool) -> None:
    found = alarms(age_checks(RELEASE, CUTOFF + timedelta(hours=hours), Monitoring()))
    assert [each["name"] for each in found] == ([] if healthy else ["age_hours"])


def test_a_silent_upstream_is_an_event_lag() -> None:
    late = RELEASE.model_copy(update={"newest_event_time": CUTOFF - timedelta(hours=50)})
    found = alarms(age_checks(late, CUTOFF, Monitoring()))
    assert [(each["name"], each["value"], each["threshold"]) for each in found] == [("event_lag_hours", 50.0, 36.0)]


@pytest.mark.parametrize(("found", "active", "healthy"), [(90, 100, True), (89, 100, False), (0, 0, False)])
def test_coverage(found: int, active: int, healthy: bool) -> None:
    assert coverage_check(found, active, Monitoring()).passed is healthy


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_canary_allows_the_stores_rounding_and_nothing_more(dtype: Literal["float32", "float16"]) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        made = (generator.normal(size=(1000, 17)) * np.exp(generator.normal(size=17) * 2)).astype(np.float32)
        again = made * (1 + generator.uniform(-2e-6, 2e-6, made.shape)).astype(np.float32)
        stored = again.astype(dtype).astype(np.float32)
        found = np.ones(1000, bool)
        healthy = compare_canary(made, stored, found, dtype)
        assert (healthy.tasks, healthy.mismatches) == (1000, 0)
        assert canary_check(healthy).passed

        swapped = stored.copy()
        swapped[:20] = stored[generator.permutation(20)]
        assert compare_canary(made, swapped, found, dtype).mismatches >= 15
        assert not canary_check(compare_canary(made, swapped, found, dtype)).passed
        assert compare_canary(made, np.roll(stored, 1, axis=0), found, dtype).mismatches == 1000


def test_tasks_the_store_does_not_hold_are_coverages_matter() -> None:
    made = np.ones((3, 2), np.float32)
    canary = compare_canary(
        made, made * np.array([[1], [0], [1]], np.float32), np.array([True, False, True]), "float32"
    )
    assert (canary.tasks, canary.mismatches) == (2, 0)
    assert not canary_check(compare_canary(made, made, np.zeros(3, bool), "float32")).passed


def test_nan_from_the_store_is_a_mismatch() -> None:
    made = np.ones((3, 2), np.float32)
    assert compare_canary(made, made * np.nan, np.ones(3, bool), "float32").mismatches == 3
