"""Clustered intervals of AUC gains: exact identities, the jackknife, and how often they are right."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from limaml.training.advisor_intervals import auc_influence, gain, standard_error

RNG = np.random.default_rng(11)


def _scored(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = RNG.normal(size=rows)
    label = (RNG.random(rows) < 1 / (1 + np.exp(-truth))).astype(np.float64)
    return label, np.round(truth + RNG.normal(size=rows), 1), np.round(truth + 0.8 * RNG.normal(size=rows), 1)


def test_the_area_is_scikit_learns_and_influence_is_the_jackknife() -> None:
    label, score, _ = _scored(300)
    area, influence = auc_influence(label, score)
    assert area == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    without = np.array([roc_auc_score(np.delete(label, i), np.delete(score, i)) for i in range(300)])
    jackknife = np.sqrt(299 / 300 * ((without - without.mean()) ** 2).sum())
    assert standard_error(influence, [np.arange(300)]) == pytest.approx(jackknife, rel=0.01)


def test_copies_of_rows_in_their_cluster_tell_nothing_new() -> None:
    label, base, score = _scored(400)
    cluster = np.repeat(np.arange(100), 4)
    once = gain(label, base, score, [cluster], 0.95)
    label, base, score = (np.repeat(one, 3) for one in (label, base, score))
    copied = gain(label, base, score, [np.repeat(cluster, 3)], 0.95)
    for name in ("auc", "low", "high", "log_loss", "log_loss_low", "log_loss_high"):
        assert getattr(copied, name) == pytest.approx(getattr(once, name), abs=1e-12)
    assert copied.clusters == once.clusters == 100


def test_two_clusterings_of_which_one_nests_are_the_coarser() -> None:
    label, base, score = _scored(400)
    coarse, rows = np.repeat(np.arange(80), 5), np.arange(400)
    one, two = gain(label, base, score, [coarse], 0.95), gain(label, base, score, [coarse, rows], 0.95)
    assert (two.low, two.high) == (pytest.approx(one.low, abs=1e-12), pytest.approx(one.high, abs=1e-12))
    assert two.clusters == 80


def test_no_interval_from_few_clusters_or_equal_scores() -> None:
    label, base, score = _scored(400)
    few = gain(label, base, score, [np.arange(400) % 29], 0.95)
    assert (few.low, few.high) == (None, None)
    assert not few.same
    assert gain(label, base, base, [np.arange(400)], 0.95).same


def test_the_interval_is_right_as_often_as_it_says_when_rows_of_a_member_agree() -> None:
    """Two equally good scores whose errors are a member's: rows taken as independent would be wrong far too often."""
    rng = np.random.default_rng(5)
    wrong = naive_wrong = 0
    worlds = 300
    for _ in range(worlds):
        member = np.repeat(np.arange(60), 10)
        truth = rng.normal(0, 3, size=60)[member]
        label = (rng.random(600) < 1 / (1 + np.exp(-truth))).astype(np.float64)
        one, other = (truth + rng.normal(0, 3, size=60)[member] for _ in range(2))
        clustered = gain(label, one, other, [member], 0.95)
        naive = gain(label, one, other, [np.arange(600)], 0.95)
        assert clustered.low is not None
        assert clustered.high is not None
        assert naive.low is not None
        assert naive.high is not None
        wrong += not clustered.low <= 0 <= clustered.high
        naive_wrong += not naive.low <= 0 <= naive.high
    assert wrong / worlds < 0.085  # 5 %, and two standard errors of 300 draws more
    assert naive_wrong / worlds > 0.25
