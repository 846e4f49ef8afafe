"""Per-task effects against a slow minimization of each task's own penalized loss."""

import numpy as np
import pytest
from scipy.optimize import minimize

from limaml.training import advisor_effects
from limaml.training.advisor_effects import fit_effects, score_effects, task_blocks

RNG = np.random.default_rng(7)
TASKS = 12


def _rows(rows: int = 600) -> tuple[np.ndarray, ...]:
    task = RNG.integers(0, TASKS - 1, rows)  # the last task has no rows
    design = np.column_stack([np.ones(rows), RNG.normal(size=(rows, 2))])
    logit = RNG.normal(size=rows)
    label = (RNG.random(rows) < 0.3).astype(np.float64)
    return task, label, logit, design


def test_effects_are_the_mode_of_each_task() -> None:
    task, label, logit, design = _rows()
    variance = np.array([0.5, 0.2, 0.2])
    effects = fit_effects(task, label, logit, design, variance, TASKS)
    for one in range(TASKS):
        rows = task == one

        def loss(beta: np.ndarray, rows: np.ndarray = rows) -> float:
            eta = logit[rows] + design[rows] @ beta
            return float((np.logaddexp(0, eta) - label[rows] * eta).sum() + (beta**2 / variance).sum() / 2)

        slow = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8}).x
        np.testing.assert_allclose(effects[one], slow, atol=1e-4)
    np.testing.assert_array_equal(effects[-1], 0)


def test_a_variance_of_zero_means_no_effect() -> None:
    task, label, logit, design = _rows()
    both = fit_effects(task, label, logit, design, np.array([0.5, 0.0, 0.0]), TASKS)
    alone = fit_effects(task, label, logit, design[:, :1], np.array([0.5]), TASKS)
    np.testing.assert_array_equal(both[:, 1:], 0)
    np.testing.assert_allclose(both[:, :1], alone, atol=1e-12)
    start = np.ones((TASKS, 3))
    np.testing.assert_array_equal(fit_effects(task, label, logit, design, np.zeros(3), TASKS, start), 0)


def test_a_lopsided_task_converges() -> None:
    """A full Newton step from a confident, wrong logit would overshoot by an order of magnitude."""
    label, logit = np.ones(400), np.full(400, -6.0)
    (effect,) = fit_effects(np.zeros(400, np.int64), label, logit, np.ones((400, 1)), np.array([2.5]), 1)
    # At the mode the prior's pull equals the sum of residuals.
    assert effect[0] / 2.5 == pytest.approx(400 / (1 + np.exp(effect[0] - 6)), rel=1e-3)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task, label, logit, design = _rows()
    variance = np.array([0.5, 0.2, 0.2])
    whole = fit_effects(task, label, logit, design, variance, TASKS)
    monkeypatch.setattr(advisor_effects, "_BLOCK", 1)
    np.testing.assert_allclose(fit_effects(task, label, logit, design, variance, TASKS), whole, atol=1e-6)


def test_blocks_hold_whole_tasks() -> None:
    task = np.repeat([3, 5, 8, 9], [4, 1, 7, 2])
    blocks = [(task[block].tolist(), starts.tolist()) for block, starts in task_blocks(task, 5)]
    assert blocks == [([3] * 4 + [5], [0, 4]), ([8] * 7, [0]), ([9] * 2, [0])]
    assert list(task_blocks(np.zeros(0, np.int64), 5)) == []


def test_scores_are_of_the_rows_own_task() -> None:
    effects = np.array([[1.0, 2.0], [10.0, 20.0]])
    design = np.array([[1.0, 0.5], [1.0, -1.0]])
    np.testing.assert_array_equal(score_effects(effects, np.array([1, 0]), design), [20.0, -1.0])
