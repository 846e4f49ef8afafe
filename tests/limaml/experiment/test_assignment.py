"""Assignment is sticky, balanced, independent between salts and layers, and monotone in ramp and treatment fraction."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from limaml.config import Experiment
from limaml.experiment.assignment import Assigned, Assigner, in_treatment, takes_part, uniform
from limaml.online_sections import Trial

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


MANY = np.arange(100_000) * 11 + 1


def independence(table: np.ndarray) -> float:
    """Chi-square p-value of a table's rows telling nothing of its columns."""
    result: Any = stats.chi2_contingency(table)
    return float(result.pvalue)


def trial(**changes: object) -> Trial:
    return Trial.model_validate({"name": "spring", "salt": "spring-salt", **changes})


@pytest.mark.parametrize("salt", ["spring-salt", "summer-salt", "limaml"])
@pytest.mark.parametrize("fraction", [0.05, 0.5])
def test_arms_are_of_the_size_asked_for(salt: str, fraction: float) -> None:
    treated = in_treatment(MANY, trial(salt=salt, treatment_fraction=fraction))
    counts = [treated.sum(), (~treated).sum()]
    assert stats.chisquare(counts, [len(MANY) * fraction, len(MANY) * (1 - fraction)]).pvalue > 0.001


@pytest.mark.parametrize(("layer", "other"), [("scoring", "email"), ("a", "b"), ("ptap", "pinvite")])
def test_layers_are_independent_of_each_other_and_of_every_split(layer: str, other: str) -> None:
    """Places in tenths against places in tenths, and against the arms of a test whose salt is the layer's name."""
    tenths = [np.floor(10 * uniform(MANY, each, b"layer")).astype(int) for each in (layer, other)]
    assert stats.chisquare(np.bincount(tenths[0])).pvalue > 0.001
    together = np.bincount(tenths[0] * 10 + tenths[1], minlength=100).reshape(10, 10)
    assert independence(together) > 0.001
    treated = in_treatment(MANY, trial(salt=layer)).astype(int)
    assert independence(np.bincount(tenths[0] * 2 + treated, minlength=20).reshape(10, 2)) > 0.001


def test_tests_of_a_layer_share_it_without_overlap() -> None:
    slots = [(0.0, 0.2), (0.2, 0.7), (0.7, 1.0)]
    inside = np.stack([takes_part(MANY, trial(slots=each)) for each in slots])
    assert (inside.sum(axis=0) == 1).all()
    assert stats.chisquare(inside.sum(axis=1), [len(MANY) * (end - start) for start, end in slots]).pvalue > 0.001


def test_a_growing_ramp_lets_members_in_and_moves_nobody() -> None:
    before = np.zeros(len(MANY), bool)
    arms = in_treatment(MANY, trial(slots=(0.25, 0.75)))
    for ramp in (0.0, 0.01, 0.1, 0.5, 1.0):
        ramped = trial(slots=(0.25, 0.75), ramp=ramp)
        inside = takes_part(MANY, ramped)
        assert not (before & ~inside).any()
        assert inside.sum() == pytest.approx(len(MANY) * ramp / 2, abs=4 * np.sqrt(len(MANY) / 4))
        np.testing.assert_array_equal(in_treatment(MANY, ramped), arms)
        if inside.sum() > 100:
            assert stats.binomtest(int(arms[inside].sum()), int(inside.sum()), 0.5).pvalue > 0.001
        before = inside


def test_one_member_at_a_time_is_assigned_as_all_are() -> None:
    also = [
        trial(slots=(0.5, 0.9), ramp=0.5, control="current", treatment=7, treatment_fraction=0.2).model_dump(),
        trial(name="elsewhere", salt="other", layer="email", treatment=3).model_dump(),
    ]
    experiment = Experiment.model_validate({"slots": (0.0, 0.5), "ramp": 0.4, "also": also, "otherwise": "vanilla"})
    members = MANY[:5000]
    expected = [Assigned("vanilla")] * len(members)
    for each in reversed(experiment.trials):
        inside, treated = takes_part(members, each), in_treatment(members, each)
        for row in np.flatnonzero(inside):
            arm = (each.treatment, each.name, "treatment") if treated[row] else (each.control, each.name, "control")
            expected[row] = Assigned(*arm)
    assigner = Assigner(experiment)
    assert [assigner.arm(member) for member in members.tolist()] == expected
    assert [assigner.arm(str(member)) for member in members.tolist()] == expected
    assert {each.experiment for each in expected} == {"limaml", "spring", "elsewhere"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"also": [{"name": "b", "salt": "limaml"}]}, "two tests have the salt 'limaml'"),
        ({"also": [{"name": "limaml", "salt": "b"}]}, "two tests have the name 'limaml'"),
        ({"also": [{"name": "b", "salt": "b"}]}, r"tests .* overlap in layer 'scoring'"),
        ({"slots": [0.5, 0.5]}, "first number must be below the second"),
        ({"control": "current"}, "control and treatment are both 'current'"),
        ({"treatment": 0}, "greater than or equal to 1"),
    ],
)
def test_tests_that_would_spoil_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Experiment.model_validate(changes)
