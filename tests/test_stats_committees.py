"""Accuracy against committee size, by brute force over all subsets, and its continuation."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from seedvote import stats

examples = settings(max_examples=40, deadline=None, derandomize=True)


def draw(seed, members=6, samples=30, classes=4):
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=samples)
    logits = generator.normal(size=(members, samples, classes)) * 2 + generator.normal(size=(samples, classes))
    logits[:, np.arange(samples), targets] += 1
    return softmax(logits, axis=2), targets


def brute_force(labels, target, size):
    """Exact expectation over all subsets of one sample's labels, as a fraction."""
    total, count = Fraction(0), 0
    for chosen in combinations(labels, size):
        votes = [label for label in chosen if label >= 0]
        tally = {label: votes.count(label) for label in votes}
        best = [label for label, number in tally.items() if number == max(tally.values())]
        total += Fraction(int(target in best), max(len(best), 1))
        count += 1
    return total / count


@examples
@given(
    labels=st.integers(1, 8).flatmap(
        lambda m: st.lists(st.lists(st.integers(-1, 4), min_size=m, max_size=m), min_size=1)
    ),
    target=st.integers(0, 5),
)
def test_the_plurality_curve_is_the_mean_over_all_subsets(labels, target):
    labels = np.array(labels[:4]).T
    targets = np.full(labels.shape[1], target)
    curve = stats.plurality_curve(labels, targets)
    assert curve.exact and curve.sizes.tolist() == list(range(1, len(labels) + 1))
    for place, size in enumerate(curve.sizes.tolist()):
        expected = [float(brute_force(column, target, size)) for column in labels.T.tolist()]
        np.testing.assert_allclose(curve.per_sample[place], expected, atol=1e-12)
        assert curve.accuracy[place] == pytest.approx(np.mean(expected), abs=1e-12)


def test_the_curve_starts_at_the_mean_member_and_ends_at_the_vote_of_all():
    generator = np.random.default_rng(0)
    labels = generator.integers(20, size=(100, 50))
    targets = generator.integers(20, size=50)
    labels[:, :40] = np.where(generator.random((100, 40)) < 0.3, targets[:40], labels[:, :40])
    curve = stats.plurality_curve(labels, targets)
    assert curve.accuracy[0] == pytest.approx((labels == targets).mean(), abs=1e-12)
    np.testing.assert_allclose(curve.per_sample[-1], stats.plurality_correct(labels, targets), atol=1e-10)
    sampled = stats.subset_curve(
        lambda chosen: stats.plurality_correct(labels[chosen], targets), 100, sizes=[5, 50], subsets=500
    )
    exact = stats.plurality_curve(labels, targets, sizes=[5, 50])
    for place in (0, 1):
        error = sampled.deviation[place] / 500**0.5
        assert sampled.accuracy[place] == pytest.approx(exact.accuracy[place], abs=4 * error)


def test_an_even_committee_of_two_classes_is_as_good_as_one_member_fewer():
    generator = np.random.default_rng(1)
    labels = (generator.random((9, 60)) < 0.7).astype(int)
    accuracy = stats.plurality_curve(labels, np.ones(60, dtype=int)).accuracy
    np.testing.assert_allclose(accuracy[[1, 3, 5, 7]], accuracy[[0, 2, 4, 6]], atol=1e-12)


def test_plurality_splits_ties_evenly_and_ignores_members_without_a_decision():
    labels = np.array([[0, 0, 1, -1], [0, 1, 2, -1], [1, 2, 3, -1], [1, -1, 0, -1]])
    np.testing.assert_allclose(stats.plurality_correct(labels, np.array([0, 2, 3, 0])), [1 / 2, 1 / 3, 1 / 4, 0])


@examples
@given(seed=st.integers(0, 10**6), members=st.integers(1, 6))
def test_the_soft_curve_is_the_mean_over_all_subsets(seed, members):
    probabilities, targets = draw(seed, members)
    curve = stats.soft_curve(probabilities, targets)
    assert curve.exact
    for place, size in enumerate(curve.sizes):
        subsets = [list(chosen) for chosen in combinations(range(members), int(size))]
        right = np.array([probabilities[chosen].mean(axis=0).argmax(axis=1) == targets for chosen in subsets])
        np.testing.assert_allclose(curve.per_sample[place], right.mean(axis=0), atol=1e-12)
        assert curve.accuracy[place] == pytest.approx(right.mean())
        deviation = right.mean(axis=1).std(ddof=1) if len(subsets) > 1 else None
        assert curve.deviation[place] == (deviation if deviation is None else pytest.approx(deviation, abs=1e-12))
        assert curve.subsets[place] == len(subsets)


def test_chunks_and_float32_change_nothing(monkeypatch):
    probabilities, targets = draw(2, 12, 50, 9)
    whole = stats.soft_curve(probabilities.astype(np.float32), targets)
    monkeypatch.setattr("seedvote.stats.subset_votes._CHUNK_ELEMENTS", 12 * 9 * 7)
    pieces = stats.soft_curve(probabilities.astype(np.float32), targets)
    np.testing.assert_allclose(pieces.per_sample, whole.per_sample, atol=1e-12)
    assert not whole.exact and whole.subsets[5] == 200
    any_rule = stats.subset_curve(lambda chosen: probabilities[chosen].mean(axis=0).argmax(axis=1) == targets, 12)
    np.testing.assert_allclose(any_rule.per_sample, whole.per_sample, atol=1e-12)


def test_another_seed_draws_other_subsets_and_the_same_seed_the_same():
    probabilities, targets = draw(3, 14, 200)
    one, same, other = (stats.soft_curve(probabilities, targets, sizes=[7], seed=seed) for seed in (0, 0, 1))
    assert one.accuracy == same.accuracy and one.deviation == same.deviation
    assert (one.per_sample != other.per_sample).any()


def test_committee_sizes():
    assert stats.committee_sizes(1) == (1,)
    assert stats.committee_sizes(16) == tuple(range(1, 17))
    many = stats.committee_sizes(100)
    assert many[:3] == (1, 2, 3) and many[-1] == 100 and len(many) <= 18
    with pytest.raises(ValueError, match="at least one member"):
        stats.committee_sizes(0)
    probabilities, targets = draw(4, 3)
    with pytest.raises(ValueError, match=r"committee sizes in 1 \.\. 3"):
        stats.soft_curve(probabilities, targets, sizes=[0, 4])


def curve_of(per_sample, sizes):
    values = np.asarray(per_sample, dtype=float)
    ones = (1,) * len(sizes)
    return stats.Curve(sizes[-1], np.array(sizes), values.mean(axis=1), (None,) * len(sizes), ones, True, values)


def test_the_smallest_committee_worth_its_price():
    curve = curve_of(np.array([[0.8], [0.9], [0.9391], [0.9395], [0.94]]), [1, 2, 3, 5, 9])
    assert stats.worthwhile(curve) == 3
    assert stats.worthwhile(curve, tolerance=0) == 9
    assert stats.worthwhile(curve, tolerance=0.05) == 2
    assert stats.worthwhile(curve_of([[1.0]], [1])) == 1


def test_the_forecast_follows_the_law_it_is_fitted_to():
    sizes = list(range(1, 11))
    law = np.array([0.9 - 0.2 / k for k in sizes])
    law[0] = 0.1  # k = 1 is not part of the fit
    generator = np.random.default_rng(5)
    offsets = generator.normal(0, 0.01, 50)
    curve = curve_of(law[:, np.newaxis] + offsets, sizes)
    result = stats.forecast(curve)
    assert result.sizes == (20, 40)
    assert result.limit == pytest.approx(0.9 + offsets.mean()) and result.slope == pytest.approx(0.2)
    assert result.accuracy == pytest.approx([0.9 - 0.2 / k + offsets.mean() for k in (20, 40)])
    width = result.intervals[0].upper - result.intervals[0].lower
    assert width == pytest.approx(2 * 2.0096 * offsets.std(ddof=1) / 50**0.5, rel=1e-4)


def test_seeds_are_left_out_in_groups_of_one_size():
    for members in (4, 10, 12, 25, 100):
        without = stats.plurality_curves_without(np.zeros((members, 2), dtype=int), np.zeros(2, dtype=int))
        assert len(without) == min(members, 10)
        assert {curve.members for curve in without} == {members - max(1, members // 10)}


@pytest.mark.parametrize("members", [5, 12])
def test_forecasts_from_members(members):
    probabilities, targets = draw(6, members, 300)
    labels = probabilities.argmax(axis=2)
    for curve, without in (
        (stats.plurality_curve(labels, targets), stats.plurality_curves_without(labels, targets)),
        (stats.soft_curve(probabilities, targets), stats.soft_curves_without(probabilities, targets)),
    ):
        assert len(without) == min(members, 10)
        result = stats.forecast(curve, without)
        assert result.reason is None
        for value, interval in zip(result.accuracy, result.intervals, strict=True):
            assert 0 <= interval.lower <= value <= interval.upper <= 1
    left_out = np.delete(probabilities, 2, axis=0)
    sizes = without[2].sizes.tolist()
    if members == 5:
        expected = stats.soft_curve(left_out, targets, sizes=sizes)
        np.testing.assert_allclose(without[2].per_sample, expected.per_sample, atol=1e-12)


def test_too_few_members_for_a_forecast():
    probabilities, targets = draw(7, 3)
    result = stats.forecast(stats.soft_curve(probabilities, targets), stats.soft_curves_without(probabilities, targets))
    assert result.accuracy is None and "at least 4 members" in result.reason
    perfect = np.repeat(np.eye(3)[np.newaxis], 5, axis=0)
    certain = stats.forecast(stats.soft_curve(perfect, np.arange(3)), stats.soft_curves_without(perfect, np.arange(3)))
    assert certain.accuracy == pytest.approx([1, 1]) and certain.intervals[0].lower is None


def test_curves_that_do_not_belong_together_are_refused():
    whole = stats.plurality_curve(np.zeros((6, 2), dtype=int), np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="fewer than 6, but it holds 2 of"):
        stats.forecast(whole, [whole, whole])
    with pytest.raises(ValueError, match="sizes of committees are at least 1"):
        stats.forecast(whole, sizes=[0])


def test_more_members_than_counts_fit_into_a_float():
    with pytest.raises(ValueError, match="at most 1000 members"):
        stats.plurality_curve(np.zeros((1001, 2), dtype=int), np.zeros(2, dtype=int))
