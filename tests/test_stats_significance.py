"""Tests and intervals over examples against scipy, statsmodels and enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, bootstrap, lmoment, norm, permutation_test

from seedvote import stats
from seedvote.stats.intervals import mean_interval
from seedvote.stats.significance import expected_excess, l_moments

examples = settings(max_examples=40, deadline=None, derandomize=True)


@examples
@given(trials=st.integers(1, 400), share=st.floats(0, 1), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_that_of_statsmodels(trials, share, level):
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    successes = round(share * trials)
    expected = proportion.proportion_confint(successes, trials, alpha=1 - level, method="wilson")
    interval = stats.wilson(successes, trials, level)
    assert (interval.lower, interval.upper) == pytest.approx(expected, abs=1e-12)
    assert 0 <= interval.lower <= successes / trials <= interval.upper <= 1


def test_wilson_keeps_a_width_where_all_are_right():
    interval = stats.wilson(50, 50)
    assert interval.upper == 1 and 0.9 < interval.lower < 0.95
    with pytest.raises(ValueError, match="successes must lie in"):
        stats.wilson(3, 2)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        stats.wilson(1, 2, level=95)


def test_the_interval_of_a_mean_is_the_bca_bootstrap_of_scipy():
    generator = np.random.default_rng(0)
    values = generator.choice([-0.9, -0.2, 0.0, 0.1, 0.4], p=[0.03, 0.1, 0.6, 0.2, 0.07], size=300)
    expected = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", batch=500, rng=1).confidence_interval
    interval = mean_interval(values, resamples=20_000, seed=2)
    width = expected.high - expected.low
    assert interval.lower == pytest.approx(expected.low, abs=0.03 * width)
    assert interval.upper == pytest.approx(expected.high, abs=0.03 * width)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)


@examples
@given(values=st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_the_sign_flip_test_is_the_enumeration_of_all_signs(values):
    differences = np.array(values) / 4
    sums = [abs(np.dot(signs, values)) >= abs(sum(values)) for signs in product([-1, 1], repeat=len(values))]
    assert stats.sign_flip(differences) == pytest.approx(np.mean(sums), abs=1e-12)


def test_the_sign_flip_test_is_that_of_scipy():
    generator = np.random.default_rng(1)
    differences = generator.integers(-10, 12, size=15) / 10
    expected = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip(differences) == pytest.approx(expected.pvalue, abs=1e-12)


def test_the_sign_flip_test_follows_the_normal_law_for_many_samples_of_any_size():
    generator = np.random.default_rng(2)
    for differences in (generator.integers(-100, 105, size=2000) / 100, generator.normal(0.03, 1, size=1000)):
        expected = 2 * norm.sf(abs(differences.sum()) / np.sqrt(np.square(differences).sum()))
        assert stats.sign_flip(differences) == pytest.approx(expected, rel=0.03)
    assert stats.sign_flip(np.ones(1000)) == 1e-12
    assert stats.sign_flip(np.zeros(5)) == 1
    assert stats.sign_flip([0.5, -0.5]) == 1


@examples
@given(won=st.integers(0, 30), lost=st.integers(0, 30), both=st.integers(0, 20))
def test_mcnemar_is_that_of_statsmodels(won, lost, both):
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    vote = np.repeat([True, False, True], [won, lost, both + 1])
    reference = np.repeat([False, True, True], [won, lost, both + 1])
    result = stats.mcnemar(vote, reference)
    assert (result.won, result.lost) == (won, lost)
    assert result.difference == pytest.approx(vote.mean() - reference.mean())
    if won + lost:
        expected = tables.mcnemar([[both + 1, won], [lost, 0]], exact=True).pvalue
        assert result.p_exact == pytest.approx(expected, abs=1e-12)
        # Fagerland et al. 2013: twice the one-sided tail, half of the observed point left out.
        fewest, together = min(won, lost), won + lost
        mid = 2 * binom.cdf(fewest, together, 0.5) - binom.pmf(fewest, together, 0.5)
        assert result.p_mid == pytest.approx(min(mid, 1), abs=1e-12)
    else:
        assert result.p_exact == result.p_mid == 1
    np.testing.assert_array_equal(result.won_samples, np.arange(won))
    np.testing.assert_array_equal(result.lost_samples, np.arange(won, won + lost))


@examples
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(values):
    """Marcus, Peritz and Gabriel 1976: a hypothesis falls when every set that holds it falls, here by Bonferroni."""
    expected = []
    for own in range(len(values)):
        sets = [chosen for chosen in product([False, True], repeat=len(values)) if chosen[own]]
        smallest = [min(value for value, taken in zip(values, chosen, strict=True) if taken) for chosen in sets]
        expected.append(max(min(1.0, sum(chosen) * least) for chosen, least in zip(sets, smallest, strict=True)))
    assert stats.holm(values) == pytest.approx(expected, abs=1e-12)


def test_holm_of_nothing_and_of_no_p_values():
    assert stats.holm([]) == ()
    with pytest.raises(ValueError, match=r"p-values must be numbers in 0 \.\. 1"):
        stats.holm([0.5, float("nan")])


def test_expected_maximum():
    """Closed forms for 2 and 3 (Jones 1948), the tabulated value for 10, and simulation for 100."""
    assert stats.expected_maximum(1) == 0
    assert stats.expected_maximum(2) == pytest.approx(1 / np.sqrt(np.pi), abs=1e-10)
    assert stats.expected_maximum(3) == pytest.approx(3 / (2 * np.sqrt(np.pi)), abs=1e-10)
    assert stats.expected_maximum(10) == pytest.approx(1.5387527308, abs=1e-8)
    simulated = np.random.default_rng(0).normal(size=(20_000, 100)).max(axis=1).mean()
    assert stats.expected_maximum(100) == pytest.approx(simulated, abs=0.02)


def test_the_difference_of_this_committee():
    generator = np.random.default_rng(3)
    correct = generator.random((5, 400)) < 0.8
    vote = correct.sum(axis=0) >= 3
    result = stats.committee_difference(correct, vote)
    differences = vote - correct.mean(axis=0)
    assert result.difference == pytest.approx(differences.mean())
    assert result.p_value == stats.sign_flip(differences)
    assert result.differing == np.count_nonzero(np.abs(differences) > 1e-9)
    assert result.interval.lower < result.difference < result.interval.upper
    assert result == stats.committee_difference(correct, vote)


@pytest.mark.parametrize("members", [1, 2, 7])
def test_members_that_are_all_equal_leave_nothing_to_resample(members):
    correct = np.repeat(np.random.default_rng(4).random((1, 50)) < 0.7, members, axis=0)
    result = stats.committee_difference(correct, correct[0])
    assert (result.difference, result.p_value, result.differing) == (0, 1, 0)
    assert result.interval.lower is None and "same difference" in result.interval.reason
    beats = stats.beats_random_seed(correct, correct[0])
    assert (beats.probability, beats.below, beats.equal, beats.above) == (0.5, 0, members, 0)
    assert (beats.interval.lower, beats.interval.upper) == (0.5, 0.5)


def test_how_often_the_vote_beats_a_seed():
    correct = np.zeros((4, 10), dtype=bool)
    for member, hits in enumerate([3, 5, 5, 9]):
        correct[member, :hits] = True
    vote = np.arange(10) < 5
    result = stats.beats_random_seed(correct, vote)
    assert (result.probability, result.below, result.equal, result.above) == ((1 + 2 / 2) / 4, 1, 2, 1)
    generator = np.random.default_rng(5)
    shares = []
    for _ in range(2000):
        drawn = generator.integers(10, size=10)
        margins = vote[drawn].sum() - correct[:, drawn].sum(axis=1)
        shares.append(((margins > 0).mean() + (margins >= 0).mean()) / 2)
    assert result.resampled_mean == pytest.approx(np.mean(shares), abs=0.01)
    assert result.interval.lower == pytest.approx(np.quantile(shares, 0.025), abs=0.13)


def test_the_excess_of_the_best_seed_is_luck_where_seeds_are_equally_good():
    generator = np.random.default_rng(6)
    alike = stats.selection_effect(generator.random((10, 2000)) < 0.9)
    assert alike.expected_luck > 0.6 * alike.expected_excess
    ability = np.linspace(0.5, 0.9, 10)[:, np.newaxis]
    apart = stats.selection_effect(generator.random((10, 2000)) < ability)
    assert apart.expected_real > 0.98 * apart.expected_excess
    assert apart.expected_real + apart.expected_luck == pytest.approx(apart.expected_excess)
    assert apart.observed_excess == pytest.approx(0.2, abs=0.03)
    one = stats.selection_effect(np.ones((1, 5), dtype=bool))
    assert one.expected_excess is None and "at least two members" in one.reason
    assert stats.selection_effect(np.ones((3, 5), dtype=bool)).expected_excess == 0


def test_l_moments_are_scipys():
    values = np.random.default_rng(7).gamma(1.5, size=12)
    assert l_moments(values) == pytest.approx(lmoment(values, order=[1, 2, 3, 4], standardize=False))
    assert l_moments(values[:2]) == pytest.approx(lmoment(values[:2], order=[1, 2], standardize=False))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_four_l_moments_say_all_about_the_largest_of_four(count):
    values = np.random.default_rng(8).exponential(size=count)
    assert expected_excess(values) == pytest.approx(values.max() - values.mean())


def test_the_expected_excess_is_right_for_normal_uniform_and_skewed_values():
    generator = np.random.default_rng(9)
    truths = {
        "normal": stats.expected_maximum(10),
        "uniform": 10 / 11 - 1 / 2,
        "exponential": sum(1 / np.arange(2, 11)),
    }
    for name, draw in (
        ("normal", generator.normal),
        ("uniform", generator.uniform),
        ("exponential", generator.exponential),
    ):
        found = np.mean([expected_excess(values) for values in draw(size=(4000, 10))])
        assert found == pytest.approx(truths[name], rel=0.04), name
    skewed = generator.exponential(size=(4000, 10))
    by_deviation = skewed.std(axis=1, ddof=1).mean() * stats.expected_maximum(10)
    assert abs(by_deviation / truths["exponential"] - 1) > 0.2  # what the L-moments are for


def test_what_is_no_truth_value_is_refused():
    with pytest.raises(ValueError, match="truth values, or 0 and 1"):
        stats.committee_difference(np.array([[0.5, 1.0]]), [1, 1])
    with pytest.raises(ValueError, match=r"vote_correct must lie in 0 \.\. 1"):
        stats.committee_difference(np.array([[True, False]]), [np.nan, 1])
    with pytest.raises(ValueError, match=r"vote_correct must be truth values or fractions of shape \[2\]"):
        stats.beats_random_seed(np.array([[True, False]]), [True])
    with pytest.raises(ValueError, match="differences must be finite"):
        stats.sign_flip([np.inf])
