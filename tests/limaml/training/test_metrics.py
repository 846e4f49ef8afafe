"""Metrics against scikit-learn and a loop over tasks."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from limaml.errors import DataError
from limaml.training.metrics import auc, evaluate, grouped_auc, relative_gain
from limaml.training.truth import Truth


def sample(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    task = random.integers(0, 60, 500)
    label = (random.random(500) < 0.3).astype(np.int8)
    score = np.round(random.random(500) * 0.5 + 0.3 * label, 1)  # rounding makes ties
    return task, label, score


def test_auc_and_log_loss_equal_scikit_learn_with_ties() -> None:
    task, label, score = sample()
    metrics = evaluate(task, label, score)
    assert metrics.auc == pytest.approx(roc_auc_score(label, score))
    assert metrics.log_loss == pytest.approx(log_loss(label, np.clip(score, 1e-7, 1 - 1e-7)))
    assert metrics.calibration == pytest.approx(np.clip(score, 1e-7, 1 - 1e-7).mean() / label.mean())


def test_grouped_auc_equals_a_loop_over_tasks() -> None:
    task, label, score = sample(1)
    slow = [
        roc_auc_score(label[task == t], score[task == t]) for t in range(60) if len(set(label[task == t].tolist())) == 2
    ]
    value, tasks = grouped_auc(task, label, score)
    assert tasks == len(slow)
    assert value == pytest.approx(np.mean(slow))


def test_one_class_and_no_rows_have_no_auc() -> None:
    ones, scores = np.ones(3, np.int8), np.array([0.1, 0.2, 0.3])
    assert auc(ones, scores) is None
    assert grouped_auc(np.zeros(3, np.int64), ones, scores) == (None, 0)
    assert evaluate(np.zeros(0, np.int64), ones[:0], scores[:0]).auc is None


def test_gain_is_relative() -> None:
    assert relative_gain(0.77, 0.7) == pytest.approx(0.1)
    assert relative_gain(None, 0.7) is None


def test_truth_is_found_by_row_id_and_a_missing_row_is_named() -> None:
    truth = Truth.of(np.array([30, 10, 20]), np.array([0.3, 0.1, 0.2], np.float32))
    np.testing.assert_array_equal(truth.lookup(np.array([10, 30, 30])), np.array([0.1, 0.3, 0.3], np.float32))
    for missing in (5, 15, 31):
        with pytest.raises(DataError, match=f"row_id {missing}"):
            truth.lookup(np.array([10, missing]))
    with pytest.raises(DataError, match="row_id 7"):
        Truth.of(np.zeros(0, np.int64), np.zeros(0, np.float32)).lookup(np.array([7]))
