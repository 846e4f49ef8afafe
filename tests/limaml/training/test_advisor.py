"""The advisor finds what was planted, says don't where nothing was, and never looks at the rows it judges on."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from limaml.errors import DataError
from limaml.training.advisor import advise_sample
from limaml.training.advisor_baseline import Parts, directions
from limaml.training.advisor_words import Verdict
from tests.limaml.training import planted_tasks as world

APPLICATION = world.planted_application()
SEEDS = 20


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        (world.per_member, ("member_id",)),
        (world.per_member_and_type, ("member_id", "type")),
        (world.nothing, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_finds_the_planted_granularity(planted: world.Planted, expected: tuple[str, ...] | None) -> None:
    candidates = [world.MEMBER, world.MEMBER_TYPE]
    found = [
        advise_sample(world.planted_sample(seed, planted), APPLICATION, candidates, world.ROWS).recommended
        for seed in range(SEEDS)
    ]
    assert found.count(expected) >= 19, found


@pytest.mark.heavy
def test_finds_planted_tastes_and_is_seldom_fooled() -> None:
    candidates = [world.MEMBER, world.MEMBER_TYPE, world.ITEM]
    for planted, expected, seeds, least in ((world.taste, ("member_id",), 20, 19), (world.nothing, None, 200, 190)):
        found = [
            advise_sample(world.planted_sample(seed, planted), APPLICATION, candidates, world.ROWS).recommended
            for seed in range(1000, 1000 + seeds)
        ]
        assert found.count(expected) >= least, found


def test_tells_taste_from_base_rate() -> None:
    rate, taste = (
        advise_sample(world.planted_sample(0, planted), APPLICATION, [world.MEMBER], world.ROWS).candidates[0]
        for planted in (world.per_member, world.taste)
    )
    assert rate.signal.intercept.auc > 10 * abs(rate.signal.slopes.auc)
    assert "base rate" in rate.text
    assert taste.signal.slopes.auc > 10 * abs(taste.signal.intercept.auc)
    assert "taste" in taste.text
    # An intercept moves all rows of a task alike, so it can't reorder them; slopes can.
    assert taste.signal.gauc is not None
    assert taste.signal.features_gauc is not None
    assert taste.signal.gauc > taste.signal.features_gauc + 0.01


def test_a_finer_task_is_held_against_the_coarser_one() -> None:
    advice = advise_sample(
        world.planted_sample(1, world.per_member), APPLICATION, [world.MEMBER_TYPE, world.MEMBER], world.ROWS
    )
    member, finer = advice.candidates
    assert (member.keys, finer.keys) == (("member_id",), ("member_id", "type"))
    # By itself the finer key looks good too: it knows half of the member.
    assert finer.signal.total.low is not None
    assert finer.signal.total.low > 0
    (refinement,) = finer.refinements
    assert refinement.beyond == ("member_id",)
    assert abs(refinement.gain.auc) < 0.1 * finer.signal.total.auc
    assert finer.verdict is Verdict.COARSER
    assert "Don't split (member_id)" in finer.text


def test_labels_of_the_judged_rows_choose_nothing() -> None:
    """Other labels in the test part change the verdict's figures, never the shrinkage or the model's scores."""
    sample = world.planted_sample(2, world.per_member)
    test = Parts.of(sample.day).test
    flipped = replace(sample, label=np.where(test, 1 - sample.label, sample.label))
    one, other = (
        advise_sample(s, APPLICATION, [world.MEMBER], world.ROWS).candidates[0].signal for s in (sample, flipped)
    )
    assert (one.intercept_spread, one.slopes_spread) == (other.intercept_spread, other.slopes_spread)
    # The same scores against opposite labels: the areas are each other's complement.
    assert one.features_auc == pytest.approx(1 - other.features_auc, abs=1e-12)
    assert one.features_auc * (1 + one.total.auc) == pytest.approx(
        1 - other.features_auc * (1 + other.total.auc), abs=1e-12
    )


def test_equal_seeds_give_equal_advice() -> None:
    one, other = (
        advise_sample(
            world.planted_sample(3, world.taste), APPLICATION, [world.MEMBER, world.MEMBER_TYPE], world.ROWS
        ).model_dump_json()
        for _ in range(2)
    )
    assert one == other


def test_parts_follow_each_other_in_time_with_a_gap() -> None:
    day = np.repeat(np.arange(100, 114), 50)
    parts = Parts.of(day)
    chain = [parts.fit, parts.stop, parts.early, parts.late, parts.test]
    for before, after in pairwise(chain):
        assert day[before].max() < day[after].min()
    assert day[parts.late].min() - day[parts.early].max() == 1 + parts.gap_days
    assert not np.any(parts.test & (parts.fit | parts.stop | parts.middle))
    assert (parts.fit | parts.stop | parts.middle | parts.test).all()
    assert (parts.fit_until, parts.middle_until, parts.test_until) == (
        day[parts.middle].min(),
        day[parts.test].min(),
        114,
    )


def test_six_days_are_the_least() -> None:
    parts = Parts.of(np.arange(6))
    assert all(mask.any() for mask in (parts.fit, parts.stop, parts.early, parts.late, parts.test))
    sample = world.planted_sample(0, world.nothing)
    short = replace(sample, day=sample.day % 5)
    with pytest.raises(DataError, match="5 days with interactions: advice needs at least 6"):
        advise_sample(short, APPLICATION, [world.MEMBER], world.ROWS)


def test_a_part_of_one_class_is_refused() -> None:
    sample = world.planted_sample(0, world.nothing)
    test = Parts.of(sample.day).test
    with pytest.raises(DataError, match=r"used to judge them has .* all of one class"):
        advise_sample(replace(sample, label=np.where(test, 0.0, sample.label)), APPLICATION, [world.MEMBER], world.ROWS)


def test_few_tasks_are_no_evidence() -> None:
    sample = world.planted_sample(4, world.per_member)
    few = replace(sample, keys=sample.keys | {"member_id": sample.keys["member_id"] % np.uint64(20)})
    advice = advise_sample(few, APPLICATION, [world.MEMBER], world.ROWS)
    assert advice.recommended is None
    assert advice.candidates[0].verdict in (Verdict.UNPROVEN, Verdict.NOTHING)
    assert advice.candidates[0].signal.total.low is None


def test_directions_see_only_what_varies_inside_a_task() -> None:
    sample = world.planted_sample(0, world.nothing)
    task = world.MEMBER.tasks(sample)
    fit = Parts.of(sample.day).fit
    design = directions(sample, task, fit, APPLICATION, ["type"])
    # item_x and item_y vary; member_x is a member's own, and type is left out.
    assert design.shape[1] == 2
    means = np.array([design[(task == one) & fit].mean(axis=0) for one in range(5)])
    inside = np.concatenate(
        [design[(task == one) & fit] - design[(task == one) & fit].mean(axis=0) for one in range(300)]
    )
    assert (inside**2).sum() / (fit.sum() - 300) == pytest.approx(1, abs=1e-6)
    assert np.abs(means).max() < 2
    assert directions(sample, np.arange(len(task)), fit, APPLICATION, []).shape == (len(task), 0)
