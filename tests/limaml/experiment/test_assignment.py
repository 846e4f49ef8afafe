"""Assignment is sticky, balanced, independent between salts, and monotone in the treatment fraction."""

import numpy as np
from scipy import stats

from limaml.config import Experiment
from limaml.experiment.assignment import in_treatment, uniform

MEMBERS = np.arange(20_000) * 7 + 3


def test_the_same_member_always_gets_the_same_arm():
    whole = in_treatment(MEMBERS, Experiment())
    shuffled = np.random.default_rng(0).permutation(len(MEMBERS))
    np.testing.assert_array_equal(in_treatment(MEMBERS[shuffled], Experiment()), whole[shuffled])
    np.testing.assert_array_equal(in_treatment(np.repeat(MEMBERS[:5], 3), Experiment()), np.repeat(whole[:5], 3))
    np.testing.assert_array_equal(in_treatment(MEMBERS.astype(str), Experiment()), whole)


def test_draws_are_uniform():
    draws = uniform(MEMBERS, "salt")
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 0.001


def test_another_salt_is_an_independent_split():
    joint = np.corrcoef(uniform(MEMBERS, "spring"), uniform(MEMBERS, "summer"))[0, 1]
    assert abs(joint) < 4 / np.sqrt(len(MEMBERS))
    assert not np.array_equal(uniform([2], "a1"), uniform([12], "a"))


def test_a_larger_fraction_only_moves_members_into_treatment():
    small = in_treatment(MEMBERS, Experiment(treatment_fraction=0.1))
    large = in_treatment(MEMBERS, Experiment(treatment_fraction=0.3))
    assert not np.any(small & ~large)
    assert abs(large.mean() - 0.3) < 4 * np.sqrt(0.21 / len(MEMBERS))


def test_nobody_is_fine():
    assert uniform(np.array([], dtype=np.int64), "salt").shape == (0,)
