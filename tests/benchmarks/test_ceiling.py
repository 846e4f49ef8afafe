"""The ideal observer: its posterior is the closed form where there is one, and lies between features and truth."""

import numpy as np
import pytest
from scipy.optimize import minimize

from benchmarks.ceiling import Observer, Samples, run
from limaml.data.world import SimulationSpec


@pytest.fixture(scope="module")
def observer() -> Observer:
    return Observer(SimulationSpec(members=20, items=20))


def rows(linear: np.ndarray, label: list[bool], day: float = -2) -> Samples:
    size = len(linear)
    return Samples(
        np.zeros(size, np.int64), np.array(label), np.full(size, 0.5), np.full(size, day), linear, np.full(size, -0.3)
    )


def test_the_posterior_is_the_mode_of_prior_times_likelihood(observer: Observer) -> None:
    rng = np.random.default_rng(0)
    seen = rows(rng.standard_normal((9, 11)), [True, False, True, True, False, False, True, False, True])
    asked = rows(rng.standard_normal((4, 11)), [True] * 4, day=-1)
    inverse = np.linalg.inv(observer.covariance(seen, seen))
    sign = np.where(seen.label, 1, -1)

    def objective(f: np.ndarray) -> float:
        return float(f @ inverse @ f / 2 + np.logaddexp(0, -sign * (seen.known + f)).sum())

    mode = minimize(objective, np.zeros(9), tol=1e-12).x
    expected = asked.known + observer.covariance(asked, seen) @ inverse @ mode
    np.testing.assert_allclose(observer.posterior(seen, asked), expected, atol=1e-4)


def test_without_samples_only_features_speak(observer: Observer) -> None:
    asked = rows(np.ones((3, 11)), [True] * 3)
    np.testing.assert_array_equal(observer.posterior(rows(np.ones((0, 11)), []), asked), asked.known)


def test_features_posterior_truth() -> None:
    mean = run(seeds=1, members=600, days=15)["mean"]
    assert 0.6 < mean["features"] < mean["posterior"] < mean["truth"] < 0.9
    assert 0.2 < mean["gap_closed"] < 0.8
