"""The report's arithmetic against independent formulas, bootstrap, simulation and other libraries."""

import numpy as np
import pytest
from scipy import optimize, stats
from tea_tasting.experiment import ExperimentResult
from tea_tasting.metrics.mean import MeanResult
from tea_tasting.multiplicity import adjust_fwer

from limaml.experiment.metrics import Sums
from limaml.experiment.statistics import compare, fieller, holm, split_p_value, untestable


def sums(x: np.ndarray, y: np.ndarray) -> Sums:
    return Sums(len(x), *(int(v) for v in (x.sum(), y.sum(), x @ x, y @ y, x @ y)))


def draw(rng: np.random.Generator, members: int, lift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Clicks and impressions of members who differ in activity and in taste."""
    shown = 1 + rng.poisson(rng.gamma(0.7, 20.0, members))
    return rng.binomial(shown, np.minimum(rng.beta(1.0, 6.0, members) * (1 + lift), 1)), shown


def test_delta_method_equals_its_closed_form():
    rng = np.random.default_rng(1)
    (xc, yc), (xt, yt) = draw(rng, 800), draw(rng, 700)
    effect = compare(sums(xc, yc), sums(xt, yt), 0.95)

    def ratio_and_variance(x, y):
        # The influence of each member on the ratio: an equivalent but independent way to its variance.
        ratio = x.sum() / y.sum()
        return ratio, np.var((x - ratio * y) / y.mean(), ddof=1) / len(x)

    (rc, vc), (rt, vt) = ratio_and_variance(xc, yc), ratio_and_variance(xt, yt)
    assert effect.control == pytest.approx(rc, rel=1e-12)
    assert effect.lift == pytest.approx(rt / rc - 1, rel=1e-12)
    assert effect.standard_error == pytest.approx(np.sqrt(vc + vt), rel=1e-9)
    assert effect.p_value == pytest.approx(2 * stats.norm.sf(abs(rt - rc) / np.sqrt(vc + vt)), rel=1e-9)


def test_standard_error_and_interval_agree_with_a_bootstrap_over_members():
    rng = np.random.default_rng(2)
    (xc, yc), (xt, yt) = draw(rng, 1500), draw(rng, 1500, 0.2)
    effect = compare(sums(xc, yc), sums(xt, yt), 0.95)
    ratios = []
    for x, y in ((xc, yc), (xt, yt)):
        pick = rng.integers(0, len(x), (2000, len(x)))
        ratios.append(x[pick].sum(axis=1) / y[pick].sum(axis=1))
    assert effect.standard_error == pytest.approx(np.std(ratios[1] - ratios[0]), rel=0.08)
    low, high = np.quantile(ratios[1] / ratios[0] - 1, [0.025, 0.975])
    assert effect.lift_low == pytest.approx(low, abs=0.15 * (high - low))
    assert effect.lift_high == pytest.approx(high, abs=0.15 * (high - low))


def test_a_a_false_positives_keep_the_level_where_the_naive_test_does_not():
    rng = np.random.default_rng(3)
    ours = naive = 0
    experiments = 600
    for _ in range(experiments):
        (xc, yc), (xt, yt) = draw(rng, 600), draw(rng, 600)
        ours += compare(sums(xc, yc), sums(xt, yt), 0.95).p_value < 0.05
        both = (xc.sum() + xt.sum()) / (yc.sum() + yt.sum())
        error = np.sqrt(both * (1 - both) * (1 / yc.sum() + 1 / yt.sum()))
        naive += abs(xt.sum() / yt.sum() - xc.sum() / yc.sum()) > 1.96 * error
    assert 0.03 <= ours / experiments <= 0.075
    assert naive / experiments > 0.15


def test_weekly_activity_is_clustered_by_member():
    """Weeks of one member are alike; taken as independent they would promise too much."""
    rng = np.random.default_rng(4)
    ours = naive = 0
    weeks = 4
    for _ in range(400):
        arms = [rng.binomial(weeks, rng.beta(0.4, 0.6, 400)) for _ in range(2)]
        control, treatment = (sums(active, np.full(400, weeks)) for active in arms)
        ours += compare(control, treatment, 0.95).p_value < 0.05
        rates = [active.sum() / (400 * weeks) for active in arms]
        error = np.sqrt(sum(rate * (1 - rate) / (400 * weeks) for rate in rates))
        naive += abs(rates[1] - rates[0]) > 1.96 * error
    assert 0.025 <= ours / 400 <= 0.08
    assert naive / 400 > 0.15


def test_fieller_bounds_are_where_the_difference_stops_being_significant():
    control, treatment, vc, vt = 0.20, 0.23, 0.01**2, 0.012**2
    interval = fieller(control, treatment, vc, vt, 0.9)
    assert interval is not None

    def excess(ratio: float) -> float:
        return float((treatment - ratio * control) ** 2 / (vt + ratio**2 * vc) - stats.chi2.ppf(0.9, 1))

    middle = treatment / control
    assert interval[0] == pytest.approx(optimize.brentq(excess, 0.2, middle))
    assert interval[1] == pytest.approx(optimize.brentq(excess, middle, 5))


def test_fieller_knows_when_no_finite_interval_exists():
    assert fieller(0.02, 0.03, 0.011**2, 0.01**2, 0.95) is None


def test_interval_and_p_value_never_contradict_each_other():
    rng = np.random.default_rng(5)
    close = 0
    for _ in range(300):
        effect = compare(sums(*draw(rng, 80)), sums(*draw(rng, 80, rng.choice([0, 0.3]))), 0.95)
        assert effect.lift_low is not None
        assert effect.lift_high is not None
        assert (effect.lift_low > 0 or effect.lift_high < 0) == (effect.p_value < 0.05)
        close += effect.p_value < 0.1
    assert close > 20  # the claim was tried where it could fail


def test_a_planted_lift_lies_in_the_interval():
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(200):
        effect = compare(sums(*draw(rng, 1000)), sums(*draw(rng, 1000, 0.15)), 0.95)
        assert effect.lift_low is not None
        assert effect.lift_high is not None
        covered += effect.lift_low <= 0.15 <= effect.lift_high
    assert 0.9 <= covered / 200 <= 0.99


def test_minimum_detectable_effect_is_found_as_often_as_it_promises():
    rng = np.random.default_rng(7)
    promised = compare(sums(*draw(rng, 4000)), sums(*draw(rng, 4000)), 0.95).minimum_detectable(0.05)
    found = sum(
        compare(sums(*draw(rng, 4000)), sums(*draw(rng, 4000, promised)), 0.95).p_value < 0.05 for _ in range(200)
    )
    assert 0.68 <= found / 200 <= 0.92


def test_holm_equals_tea_tasting():
    rng = np.random.default_rng(8)
    for size in (1, 2, 7):
        p_values = rng.random(size) ** 3
        empty = dict.fromkeys(MeanResult._fields, 0.0)
        family = ExperimentResult({str(i): MeanResult(**(empty | {"pvalue": p})) for i, p in enumerate(p_values)})
        other = adjust_fwer(family, alpha=0.05, arbitrary_dependence=True, method="bonferroni")
        (results,) = other.values()
        expected = [dict(results[str(i)])["pvalue_adj"] for i in range(size)]
        np.testing.assert_allclose(holm(list(p_values)), np.minimum(np.array(expected, float), 1))
    assert holm([]) == []
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])


def test_split_check_equals_the_binomial_test_and_finds_a_broken_split():
    assert split_p_value(5000, 5100, 0.5) == pytest.approx(stats.binomtest(5100, 10_100, 0.5).pvalue, abs=0.01)
    assert split_p_value(900, 100, 0.1) == pytest.approx(1)
    assert split_p_value(50_000, 48_500, 0.5) < 0.001


def test_what_can_not_be_tested_says_why():
    rng = np.random.default_rng(9)
    fine, few = sums(*draw(rng, 50)), sums(*draw(rng, 12))
    silent = sums(np.zeros(50, int), np.full(50, 3))
    same = sums(np.full(50, 2), np.full(50, 2))
    assert untestable(fine, fine) == ""
    assert "only 12 members" in untestable(fine, few)
    assert "only 0 members" in untestable(None, fine)
    assert "nothing happened" in untestable(silent, fine)
    assert "behaved the same" in untestable(same, same)
