from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limaml.config import Application
from limaml.data.batches import TaskBatch
from monitoring.drift import (
    Binning,
    Drift,
    Histograms,
    feature_columns,
    psi,
    sampling_psi,
    score_drift,
    write_evidently,
)
from monitoring.sample import TaskSample
from tests.monitoring.healthy import day, names


def drifts(application: Application, reference: TaskBatch, recent: TaskBatch, batches: int = 1) -> dict[str, Drift]:
    columns = feature_columns(application.features)
    sample = TaskSample(20_000)
    sample.add(reference)
    assert sample.tasks is not None
    histograms = Histograms(columns, sample.tasks)
    before, now = histograms.empty(), histograms.empty()
    histograms.add(before, reference)
    for part in np.array_split(np.arange(recent.tasks), batches):
        histograms.add(now, recent.take(part))
    return {drift.name: drift for drift in histograms.drifts(before, now)}


def test_psi_equals_its_closed_form() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    expected = sum((a - b) * np.log(a / b) for a, b in zip(p, q, strict=True))
    n = 1_000_000
    assert psi((q * n).astype(int), (p * n).astype(int)) == pytest.approx(expected, rel=1e-4)
    assert psi(np.array([5, 0, 9]), np.array([5, 0, 9])) == 0
    assert np.isnan(psi(np.array([1, 2]), np.array([0, 0])))


def test_sampling_psi_is_what_two_samples_of_one_population_seldom_exceed() -> None:
    generator = np.random.default_rng(0)
    shares = np.full(10, 0.1)
    limit = sampling_psi(10, 2000, 500)
    measured = [psi(generator.multinomial(2000, shares), generator.multinomial(500, shares)) for _ in range(4000)]
    assert np.mean(np.array(measured) > limit) < 0.004
    assert max(measured) > 0.7 * limit


def test_numeric_bins_are_quantiles_with_ties_range_and_nulls() -> None:
    values = np.concatenate([np.zeros(600), np.arange(1, 401)]).astype(np.float32)
    binning = Binning(values, categorical=False)
    counts = binning.count(values)
    assert counts.sum() == 1000
    assert counts[1] == 600  # the tie has its own bin, above the empty one below the range
    outside = binning.count(np.array([-1, 500, np.nan, np.inf], np.float32))
    assert outside[0] == 1
    assert outside[-2] == 2
    assert outside[-1] == 1


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_that_moves_either_way_is_drift(value: float) -> None:
    binning = Binning(np.full(1000, value, np.float32), categorical=False)
    before = binning.count(np.full(1000, value, np.float32))
    for moved in (-1, 1):
        assert psi(before, binning.count(np.full(1000, value + moved, np.float32))) > 5


def test_categories_are_the_frequent_the_rest_and_nulls() -> None:
    codes = np.repeat(np.arange(1, 31), np.arange(30, 0, -1)) * 10**15
    binning = Binning(codes, categorical=True)
    counts = binning.count(np.array([10**15, 25 * 10**15, 7, 0, 10**18]))
    assert counts[0] == 1
    assert counts[-2] == 3
    assert counts[-1] == 1


def test_a_column_of_nulls_or_no_rows_does_not_break() -> None:
    empty = Binning(np.full(5, np.nan, np.float32), categorical=False)
    assert empty.count(np.array([np.nan, 1.0], np.float32)).sum() == 2
    assert Binning(np.zeros(5, np.int64), categorical=True).count(np.array([0, 3])).tolist() == [1, 1]


@pytest.mark.parametrize("tasks", [150, 1500])
def test_healthy_days_raise_no_alarm(application: Application, tasks: int) -> None:
    limit = application.monitoring.feature_psi
    for seed in range(20):
        found = drifts(application, day(seed, tasks), day(1000 + seed, tasks))
        assert list(found) == names(application)
        assert max(drift.excess(limit) for drift in found.values()) < 1


@pytest.mark.parametrize("fault", ["shift", "scale", "nulls", "constant", "category", "new category", "mixed up"])
def test_planted_faults_are_found_and_only_they(application: Application, fault: str) -> None:
    limit = application.monitoring.feature_psi
    for seed in range(20):
        recent = day(1000 + seed)
        numeric, category = recent.other_numeric.copy(), recent.other_category.copy()
        moved = {"item_x0"}
        if fault == "shift":
            numeric[:, 0] += 0.7
        elif fault == "scale":
            numeric[:, 0] *= 2
        elif fault == "nulls":
            numeric[::5, 0] = np.nan
        elif fault == "constant":
            numeric[:, 0] = 0
        elif fault == "mixed up":
            numeric = numeric[:, ::-1]
            moved = {"item_x0", "item_x1"}
        else:
            category[::3] = 5 if fault == "category" else 10**15
            moved = {"notification_type"}
        found = drifts(application, day(seed), replace(recent, other_numeric=numeric, other_category=category))
        assert {name for name, drift in found.items() if drift.excess(limit) > 1} == moved


def test_streaming_in_parts_changes_nothing(application: Application) -> None:
    assert drifts(application, day(0), day(1)) == drifts(application, day(0), day(1), batches=7)


def test_scores(application: Application) -> None:
    generator, limit = np.random.default_rng(0), application.monitoring.prediction_psi
    for _ in range(20):
        before, now = generator.beta(2, 8, 20_000), generator.beta(2, 8, 20_000)
        assert score_drift(before, now, 1000, 1000).excess(limit) < 0.25
        assert score_drift(before, now * 1.5, 1000, 1000).excess(limit) > 1


def test_evidentlys_page_is_small_and_whole(application: Application, tmp_path: Path) -> None:
    reference, recent = day(0), day(1, shift=1.0)
    recent.meta_numeric[:, 1] = np.nan
    score = [np.random.default_rng(i).random(batch.rows, np.float32) for i, batch in enumerate((reference, recent))]
    path = tmp_path / "evidently.html"
    write_evidently(path, feature_columns(application.features), (reference, score[0]), (recent, score[1]), 0.2)
    text = path.read_text()
    assert len(text) < 5_000_000
    assert '<script src="http' not in text
    for name in {"score", *names(application)} - {"member_x1"}:
        assert name in text
    assert "member_x1" not in text
