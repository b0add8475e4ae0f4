"""Rules against scikit-learn, scipy, numpy and hand-made cases, and the promises that every rule keeps."""

from __future__ import annotations

import dataclasses
import re
import warnings
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import gmean, trim_mean
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import VotingClassifier

from seedvote import chunks, voting
from seedvote.voting import RULES, WEIGHTED_RULES, Vote, stacking_weights, vote

INF = np.inf
examples = settings(max_examples=20, deadline=None, derandomize=True)


class Replay(ClassifierMixin, BaseEstimator):
    """A classifier that answers from a table; sample i is the input [i]."""

    def __init__(self, table):
        self.table = table

    def fit(self, inputs, targets):
        self.classes_ = np.unique(targets)
        return self

    def predict_proba(self, inputs):
        return self.table[inputs[:, 0]]

    def predict(self, inputs):
        return self.table[inputs[:, 0]].argmax(axis=1)


def sklearn_labels(probabilities, voting_kind, weights):
    members, samples, classes = probabilities.shape
    inputs = np.arange(samples)[:, np.newaxis]
    classifier = VotingClassifier(
        [(str(m), Replay(probabilities[m])) for m in range(members)], voting=voting_kind, weights=weights
    )
    return classifier.fit(inputs, np.arange(samples) % classes).predict(inputs)


def dyadic_probabilities(generator, members, samples, classes, parts=8):
    """Rows of multiples of 1/8, so that sums are exact, equal sums abound and zeros occur."""
    counts = generator.multinomial(parts, np.full(classes, 1 / classes), size=(members, samples))
    return counts / parts


def log(probabilities):
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def weights_for(rule, members, generator=None):
    """Positive weights where the rule needs them, else none."""
    if rule != "weighted":
        return None
    return (generator or np.random.default_rng(3)).integers(1, 5, members)


# Logits on a grid of 1/8: equal logits are common, and no two scores differ by anything near 1e-12.
grid = st.integers(-80, 80).map(lambda eighths: eighths / 8)
grid_or_zero_probability = st.one_of(grid, st.integers(-1, 1).map(float), st.just(-INF))


@st.composite
def logits_arrays(draw, elements=grid_or_zero_probability, min_members=1):
    shape = (draw(st.integers(min_members, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    values = draw(arrays(np.float64, shape, elements=elements))
    values[np.isneginf(values).all(axis=2)] = 0.0
    return values


def assert_same(first, second, exactly=False):
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.tied, second.tied)
    tolerance = 0 if exactly else 1e-12
    np.testing.assert_allclose(first.probabilities, second.probabilities, rtol=0, atol=tolerance)


# --- against scikit-learn, whose ties go to the lowest class index


@pytest.mark.parametrize("members", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rule", "kind"), [("majority", "hard"), ("soft", "soft")])
def test_agrees_with_scikit_learn(members, classes, weighted, rule, kind):
    generator = np.random.default_rng([members, classes, weighted])
    probabilities = dyadic_probabilities(generator, members, 2000, classes)
    weights = generator.integers(0, 4, members) + (np.arange(members) == 0) if weighted else None
    result = vote(log(probabilities), rule, tie="lowest", weights=weights)
    np.testing.assert_array_equal(result.labels, sklearn_labels(probabilities, kind, weights))
    if members in (2, 4, 10) and not weighted:
        assert result.tied.sum() > 20


def test_weighted_is_the_weighted_soft_vote_of_scikit_learn():
    generator = np.random.default_rng(0)
    probabilities = dyadic_probabilities(generator, 5, 3000, 4)
    weights = [1, 2, 0, 3, 2]
    result = vote(log(probabilities), "weighted", tie="lowest", weights=weights)
    np.testing.assert_array_equal(result.labels, sklearn_labels(probabilities, "soft", weights))
    expected = np.average(probabilities, axis=0, weights=weights)
    np.testing.assert_allclose(result.probabilities, expected, rtol=0, atol=1e-14)


# --- formulas against scipy, numpy and a plain loop


@pytest.fixture
def logits():
    return np.random.default_rng(1).normal(scale=3, size=(11, 200, 6))


def renormalized(scores):
    return scores / scores.sum(axis=1, keepdims=True)


def test_soft_is_the_mean_probability(logits):
    expected = softmax(logits, axis=2).mean(axis=0)
    np.testing.assert_allclose(vote(logits, "soft").probabilities, expected, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(vote(logits).labels, expected.argmax(axis=1))


def test_geometric_is_the_normalised_geometric_mean(logits):
    expected = renormalized(gmean(softmax(logits, axis=2), axis=0))
    np.testing.assert_allclose(vote(logits, "geometric").probabilities, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("members", [1, 2, 3, 10, 11])
def test_median_is_numpys(logits, members):
    expected = renormalized(np.median(softmax(logits[:members], axis=2), axis=0))
    result = vote(logits[:members], "median")
    np.testing.assert_allclose(result.probabilities, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("members", [1, 4, 5, 9, 10, 11])
@pytest.mark.parametrize("trim", [0.0, 0.1, 0.2, 0.3, 0.45])
def test_trimmed_mean_is_scipys(logits, members, trim):
    expected = renormalized(trim_mean(softmax(logits[:members], axis=2), trim, axis=0))
    result = vote(logits[:members], "trimmed_mean", trim=trim)
    np.testing.assert_allclose(result.probabilities, expected, rtol=0, atol=1e-14)


def test_the_default_trim_is_a_fifth(logits):
    # A fifth drops 1 of 9 and 2 of 10 at each end; no fraction below 0.2 or above 0.222 does both.
    for members, cut in ((9, 1), (10, 2)):
        ordered = np.sort(softmax(logits[:members], axis=2), axis=0)
        expected = renormalized(ordered[cut:-cut].mean(axis=0))
        result = vote(logits[:members], "trimmed_mean")
        np.testing.assert_allclose(result.probabilities, expected, rtol=0, atol=1e-14)


def test_borda_counts_the_classes_beaten():
    logits = np.random.default_rng(2).integers(-2, 3, size=(4, 200, 5)).astype(float)
    points = np.zeros((200, 5))
    for member in logits:
        for sample, row in enumerate(member):
            for one in range(5):
                for other in set(range(5)) - {one}:
                    points[sample, one] += 1.0 if row[one] > row[other] else 0.5 * (row[one] == row[other])
    result = vote(logits, "borda")
    np.testing.assert_allclose(result.probabilities, points / (4 * 10), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(result.tied, (points == points.max(axis=1, keepdims=True)).sum(axis=1) > 1)
    assert result.tied.sum() > 10


def test_majority_shares_and_votes_are_counts():
    first_choices = np.random.default_rng(4).integers(0, 4, size=(9, 300))
    logits = np.eye(4)[first_choices] * 2.0
    counts = np.stack([np.bincount(column, minlength=4) for column in first_choices.T])
    result = vote(logits, "majority")
    np.testing.assert_array_equal(result.probabilities, counts / 9)
    np.testing.assert_array_equal(result.votes, counts.max(axis=1))
    np.testing.assert_array_equal(result.tied, (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) > 1)


# --- ties, by hand


def test_a_plurality_tie_goes_to_the_highest_mean_probability():
    # Two members put class 2 first, two class 1; the latter are surer. Class 0 has nobody.
    logits = log(np.array([[[0.3, 0.3, 0.4]], [[0.3, 0.3, 0.4]], [[0.1, 0.8, 0.1]], [[0.1, 0.8, 0.1]]]))
    result = vote(logits, "majority")
    assert (result.labels[0], result.votes[0], result.tied[0], result.tie_rate) == (1, 2, True, 1.0)
    np.testing.assert_array_equal(result.probabilities, [[0.0, 0.5, 0.5]])


def test_only_the_tied_take_part_in_the_tie_break():
    # Class 2 has the highest mean probability, but the plurality is shared by classes 0 and 1.
    rows = [[0.51, 0.0, 0.49], [0.5, 0.02, 0.48], [0.0, 0.55, 0.45], [0.0, 0.55, 0.45]]
    mean = np.mean(rows, axis=0)
    assert mean.argmax() == 2
    result = vote(log(np.array(rows)[:, np.newaxis]), "majority")
    assert result.labels[0] == 1
    assert mean[1] > mean[0]


def test_the_three_tie_rules_on_one_tie():
    logits = log(np.array([[[0.6, 0.4]], [[0.1, 0.9]]]))
    by_rule = {tie: vote(logits, "majority", tie=tie) for tie in voting.TIES}
    assert {tie: result.labels[0] for tie, result in by_rule.items()} == {
        "probability": 1,
        "lowest": 0,
        "abstain": -1,
    }
    assert {tie: result.votes[0] for tie, result in by_rule.items()} == {
        "probability": 1,
        "lowest": 1,
        "abstain": 0,
    }
    for result in by_rule.values():
        np.testing.assert_array_equal(result.tied, [True])
        np.testing.assert_array_equal(result.probabilities, [[0.5, 0.5]])


def test_a_full_tie_goes_to_the_lowest_index():
    logits = log(np.array([[[0.2, 0.5, 0.3]], [[0.2, 0.3, 0.5]]]))
    for rule in ("soft", "majority", "geometric", "median", "trimmed_mean", "borda"):
        result = vote(logits, rule)
        assert (result.labels[0], result.tied[0]) == (1, True), rule


def test_the_tie_break_uses_the_weights():
    # Weight 2 on class 0, 1 + 1 on class 1.
    # Mean probability favours class 1 (0.53), the weighted one class 0 (0.55).
    logits = log(np.array([[[0.8, 0.2]], [[0.3, 0.7]], [[0.3, 0.7]]]))
    result = vote(logits, "majority", weights=[2, 1, 1])
    assert (result.labels[0], result.tied[0], result.votes[0]) == (0, True, 1)


@pytest.mark.parametrize(("difference", "tied"), [(0.5e-12, True), (2e-12, False)])
def test_scores_within_the_tolerance_are_tied(difference, tied):
    half = difference / 2
    result = vote(np.log([[[0.5 - half, 0.5 + half]]]))
    assert (result.tied[0], result.labels[0]) == (tied, 0 if tied else 1)


def test_rounding_does_not_break_a_tie():
    first, second = [0.1, 0.5, 0.6], [0.4, 0.4, 0.4]
    assert sum(first) != sum(second)
    logits = log(np.array([first, second, [0.5, 0.1, 0.0]]).T[:, np.newaxis])
    for order in permutations(range(3)):
        result = vote(logits[list(order)], tie="abstain")
        assert (result.labels[0], result.tied[0]) == (-1, True)
        assert vote(logits[list(order)]).labels[0] == 0


def test_a_members_own_tie_goes_to_the_lowest_class():
    result = vote([[[1.0, 3.0, 3.0]], [[0.0, 2.0, 2.0]]], "majority")
    assert (result.labels[0], result.votes[0], result.tied[0]) == (1, 2, False)


def test_tie_rate_is_the_fraction_of_tied_samples():
    logits = np.log([[[0.5, 0.5], [0.9, 0.1], [0.3, 0.7], [0.6, 0.4]]])
    assert vote(logits).tie_rate == 0.25


# --- what every rule promises


@pytest.mark.parametrize("rule", RULES)
@examples
@given(data=st.data())
def test_the_order_of_the_members_does_not_matter(rule, data):
    logits = data.draw(logits_arrays(elements=st.one_of(grid_or_zero_probability, st.floats(-1e4, 1e4))))
    weights = weights_for(rule, len(logits))
    if rule in WEIGHTED_RULES and data.draw(st.booleans()):
        weights = data.draw(arrays(np.float64, len(logits), elements=st.floats(0.1, 3)))
    order = data.draw(st.permutations(range(len(logits))))
    permuted = None if weights is None else weights[order]
    tie = data.draw(st.sampled_from(voting.TIES))
    first = vote(logits, rule, tie=tie, weights=weights)
    second = vote(logits[order], rule, tie=tie, weights=permuted)
    assert_same(first, second, exactly=True)
    np.testing.assert_array_equal(first.votes, second.votes)


@pytest.mark.parametrize("rule", RULES)
@examples
@given(data=st.data())
def test_one_member_reproduces_the_single_model(rule, data):
    logits = data.draw(logits_arrays())[:1]
    result = vote(logits, rule, weights=[2.5] if rule == "weighted" else None)
    np.testing.assert_array_equal(result.labels, logits[0].argmax(axis=1))
    np.testing.assert_array_equal(result.votes, 1)
    if rule not in ("majority", "borda"):
        np.testing.assert_allclose(result.probabilities, softmax(logits[0], axis=1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("rule", RULES)
@examples
@given(data=st.data())
def test_unanimity_is_kept(rule, data):
    logits = data.draw(logits_arrays())
    top = data.draw(st.integers(0, logits.shape[2] - 1))
    above = np.where(np.isneginf(logits), -90.0, logits).max(axis=2) + 0.125
    logits[:, :, top] = above
    result = vote(logits, rule, tie="abstain", weights=weights_for(rule, len(logits)))
    np.testing.assert_array_equal(result.labels, top)
    np.testing.assert_array_equal(result.votes, len(logits))
    assert result.tie_rate == 0.0


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "trimmed_mean"])
@examples
@given(logits=logits_arrays(), times=st.integers(2, 4))
def test_duplicating_all_members_changes_nothing(rule, logits, times):
    weights = weights_for(rule, len(logits))
    many = None if weights is None else np.tile(weights, times)
    first = vote(logits, rule, weights=weights)
    second = vote(np.tile(logits, (times, 1, 1)), rule, weights=many)
    assert_same(first, second)
    np.testing.assert_array_equal(first.votes * times, second.votes)


@examples
@given(logits=logits_arrays(min_members=4), times=st.integers(2, 4))
def test_duplicating_changes_no_trimmed_mean_where_the_cut_is_whole(logits, times):
    logits = logits[:4]
    first = vote(logits, "trimmed_mean", trim=0.25)
    assert_same(first, vote(np.tile(logits, (times, 1, 1)), "trimmed_mean", trim=0.25))


@pytest.mark.parametrize("rule", RULES)
@examples
@given(data=st.data())
def test_renaming_the_classes_renames_the_result(rule, data):
    logits = data.draw(logits_arrays())
    order = data.draw(st.permutations(range(logits.shape[2])))
    if rule == "majority":  # a member's own tie goes to the lowest index
        logits = logits + np.linspace(0, 0.0625, logits.shape[2])
    weights = weights_for(rule, len(logits))
    first = vote(logits, rule, tie="abstain", weights=weights)
    second = vote(logits[:, :, order], rule, tie="abstain", weights=weights)
    np.testing.assert_array_equal(first.tied, second.tied)
    np.testing.assert_allclose(first.probabilities[:, order], second.probabilities, rtol=0, atol=1e-12)
    decided = ~first.tied
    np.testing.assert_array_equal(first.labels[decided], np.array(order)[second.labels[decided]])


@pytest.mark.parametrize("rule", RULES)
@examples
@given(data=st.data())
def test_results_are_well_formed(rule, data):
    logits = data.draw(logits_arrays(elements=st.one_of(grid_or_zero_probability, st.floats(-1e308, 1e308))))
    members, samples, classes = logits.shape
    tie = data.draw(st.sampled_from(voting.TIES))
    result = vote(logits, rule, tie=tie, weights=weights_for(rule, members))
    assert result.labels.dtype == np.int64
    assert result.probabilities.dtype == np.float64
    assert result.probabilities.shape == (samples, classes)
    assert (result.probabilities >= 0).all()
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=0, atol=1e-14)
    assert result.members == tuple(range(members))
    assert result.dropped == ()
    abstained = result.labels == -1
    np.testing.assert_array_equal(abstained, result.tied & (tie == "abstain"))
    expected = [(logits[:, s].argmax(axis=1) == result.labels[s]).sum() for s in range(samples)]
    np.testing.assert_array_equal(result.votes, expected)
    top = result.probabilities.max(axis=1) - 1e-12
    assert (result.probabilities[~abstained, result.labels[~abstained]] >= top[~abstained]).all()


@pytest.mark.parametrize("rule", RULES)
def test_chunks_do_not_show(rule, monkeypatch):
    logits = np.random.default_rng(5).integers(-3, 4, size=(6, 500, 4)).astype(np.float32)
    weights = weights_for(rule, 6)
    whole = vote(logits, rule, weights=weights)
    for elements in (1, 24 * 7, 24 * 499):
        monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", elements)
        chunked = vote(logits, rule, weights=weights)
        assert_same(whole, chunked, exactly=True)
        np.testing.assert_array_equal(whole.votes, chunked.votes)


@pytest.mark.parametrize("tie", voting.TIES)
def test_several_rules_in_one_pass_decide_as_each_alone(tie):
    logits = np.random.default_rng(9).integers(-3, 4, size=(6, 500, 4)).astype(np.float32)
    weights = {"weighted": weights_for("weighted", 6)}
    together = voting.vote_by_each(logits, RULES, tie=tie, weights=weights)
    assert list(together) == list(RULES)
    for rule, found in together.items():
        alone = vote(logits, rule, tie=tie, weights=weights.get(rule))
        assert_same(found, alone, exactly=True)
        np.testing.assert_array_equal(found.votes, alone.votes)


@pytest.mark.parametrize("rule", RULES)
def test_log_probabilities_and_shifted_logits_are_logits_too(rule, logits):
    weights = weights_for(rule, len(logits))
    plain = vote(logits, rule, weights=weights)
    assert_same(plain, vote(log_softmax(logits, axis=2), rule, weights=weights))
    assert_same(plain, vote(logits + np.arange(len(logits))[:, None, None], rule, weights=weights))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_arithmetic_is_in_float64_whatever_the_input(dtype):
    logits = np.random.default_rng(6).integers(-5, 6, size=(3, 50, 4))
    assert_same(vote(logits.astype(np.float64)), vote(logits.astype(dtype)), exactly=True)


def test_the_input_is_left_alone(logits):
    before = logits.copy()
    for rule in RULES:
        vote(logits, rule, weights=weights_for(rule, len(logits)))
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("rule", WEIGHTED_RULES)
def test_the_scale_of_the_weights_does_not_matter(rule, logits):
    weights = np.arange(11.0)
    for scale in (1e-300, 7.0, 1.7e307):
        assert_same(vote(logits, rule, weights=weights), vote(logits, rule, weights=weights * scale))


@pytest.mark.parametrize("rule", ["soft", "majority"])
def test_equal_weights_are_no_weights(rule, logits):
    assert_same(vote(logits, rule), vote(logits, rule, weights=np.full(11, 0.3)))


@pytest.mark.parametrize("rule", WEIGHTED_RULES)
def test_a_weight_of_zero_silences_a_member(rule, logits):
    weights = np.array([0.0] + [1.0] * 10)
    result = vote(logits, rule, weights=weights)
    alone = vote(logits[1:], "soft" if rule == "weighted" else rule)
    assert_same(result, alone)


def test_a_vote_cannot_be_changed(logits):
    with pytest.raises(dataclasses.FrozenInstanceError):
        vote(logits).members = ()
    assert isinstance(vote(logits), Vote)


# --- -inf and members that are no use


def test_minus_infinity_is_probability_zero():
    logits = np.array([[[-INF, 0.0, 0.0]], [[0.0, 0.0, -INF]]])
    np.testing.assert_allclose(vote(logits).probabilities, [[0.25, 0.5, 0.25]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(vote(logits, "geometric").probabilities, [[0.0, 1.0, 0.0]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(vote(logits, "median").probabilities, [[0.25, 0.5, 0.25]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(vote(logits, "borda").probabilities, [[0.25, 0.5, 0.25]], rtol=0, atol=1e-15)
    assert vote(logits, "majority").labels[0] == 1


@pytest.mark.parametrize("tie", voting.TIES)
@pytest.mark.parametrize("rule", ["geometric", "median"])
def test_a_rule_without_an_opinion_is_uniform_and_tied(rule, tie):
    # Three members, each certain of another of the classes 1, 2 and 3; class 0 is out of the question.
    logits = log(np.eye(4)[[1, 2, 3]][:, np.newaxis])
    result = vote(logits, rule, tie=tie)
    np.testing.assert_array_equal(result.probabilities, np.full((1, 4), 0.25))
    assert result.tied[0]
    assert result.labels[0] == {"probability": 1, "lowest": 0, "abstain": -1}[tie]


def test_huge_logits_do_not_overflow():
    logits = np.array([[[1e308, -1e308, 0.0]], [[-1e308, 1e308, 1e307]]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rule in RULES:
            result = vote(logits, rule, weights=weights_for(rule, 2))
            assert np.isfinite(result.probabilities).all()


bad_rows = pytest.mark.parametrize(
    "row", [[np.nan, 0.0, 1.0], [0.0, 1.0, np.nan], [INF, 0.0, 1.0], [INF, -INF, np.nan], [-INF, -INF, -INF]]
)


@bad_rows
@pytest.mark.parametrize("rule", RULES)
def test_bad_members_are_refused_by_seed(row, rule):
    logits = np.random.default_rng(7).normal(size=(4, 5, 3))
    logits[1, 2] = logits[3, 0] = row
    with pytest.raises(ValueError, match="Finite logits") as error:
        vote(logits, rule, seeds=[3, 14, 15, 92], weights=weights_for(rule, 4))
    assert str(error.value) == (
        "Finite logits were wanted, but those of the members with seeds 14, 92 are NaN, +inf, or "
        "-inf for every class of some sample: train these members again, "
        "or leave them out (on_bad_member=drop)."
    )


@bad_rows
@pytest.mark.parametrize("rule", RULES)
def test_bad_members_can_be_dropped(row, rule):
    logits = np.random.default_rng(8).normal(size=(5, 6, 3))
    logits[2, 4] = row
    weights = weights_for(rule, 5)
    result = vote(logits, rule, seeds=[5, 6, 7, 8, 9], on_bad_member="drop", weights=weights)
    others = [0, 1, 3, 4]
    assert_same(result, vote(logits[others], rule, weights=None if weights is None else weights[others]), True)
    assert result.dropped == (7,)
    assert result.members == (0, 1, 3, 4)


def test_a_member_of_nan_does_not_vote_for_class_0():
    logits = np.stack([np.full((3, 2), np.nan), np.full((3, 2), np.nan), np.tile([0.0, 1.0], (3, 1))])
    for rule in ("soft", "majority"):
        np.testing.assert_array_equal(vote(logits, rule, on_bad_member="drop").labels, 1)


def test_positions_stand_in_for_seeds():
    logits = np.zeros((3, 1, 2))
    logits[2] = np.nan
    with pytest.raises(ValueError, match="members with seeds 2 are"):
        vote(logits)
    assert vote(logits, on_bad_member="drop").dropped == (2,)


def test_nothing_to_drop_drops_nothing(logits):
    assert_same(vote(logits), vote(logits, on_bad_member="drop"), exactly=True)


def test_somebody_must_be_left():
    with pytest.raises(ValueError, match="train these members again, as nobody is left to vote"):
        vote(np.full((2, 3, 4), np.nan), on_bad_member="drop")


def test_somebody_with_a_weight_must_be_left():
    logits = np.zeros((2, 3, 4))
    logits[1] = np.nan
    with pytest.raises(ValueError, match=re.escape("Only the dropped members (seeds 9) have a positive weight")):
        vote(logits, "weighted", weights=[0, 1], seeds=[8, 9], on_bad_member="drop")


# --- errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"rule": "sotf"}, "rule 'sotf' is not known: did you mean 'soft'?"),
        ({"tie": "lowst"}, "tie 'lowst' is not known: did you mean 'lowest'?"),
        ({"tie": "random"}, "there are abstain, lowest, probability"),
        ({"on_bad_member": "dropp"}, "on_bad_member 'dropp' is not known: did you mean 'drop'?"),
        ({"trim": 0.5}, "trim must be at least 0 and less than 0.5, but it is 0.5"),
        ({"trim": float("nan")}, "but it is nan"),
        (
            {"rule": "weighted"},
            "Rule 'weighted' needs weights: give one for each member, or use rule 'soft'.",
        ),
        ({"rule": "borda", "weights": [1, 1, 1]}, "Rule 'borda' takes no weights"),
        ({"rule": "weighted", "weights": [1, 1]}, "weights must be 3 finite, non-negative numbers"),
        ({"weights": [1, -1, 1]}, "but they are [1.0, -1.0, 1.0]"),
        ({"weights": [0, 0, 0]}, "at least one of them positive"),
        ({"weights": [1, np.nan, 1]}, "weights must be 3 finite"),
        ({"weights": [1, INF, 1]}, "weights must be 3 finite"),
        ({"seeds": [1, 2]}, "seeds must name all 3 members of the logits, but 2 came."),
    ],
)
def test_mistakes_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        vote(np.zeros((3, 2, 4)), **arguments)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 3, 4), (0, 2, 3), (2, 0, 3), (2, 3, 0)])
def test_other_shapes_are_refused(shape):
    sentence = f"but they are float64 of shape {list(shape)}: stack the members on the first axis."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        vote(np.zeros(shape))


@pytest.mark.parametrize("dtype", [bool, complex, object])
def test_other_types_are_refused(dtype):
    with pytest.raises(ValueError, match="logits must be real numbers"):
        vote(np.zeros((1, 2, 3), dtype=dtype))


# --- weights from the validation likelihood


def mean_log_likelihood(weights, logits, labels):
    true = softmax(logits, axis=2)[:, np.arange(len(labels)), labels]
    return np.log(weights @ true).mean()


@pytest.mark.parametrize("case", range(12))
def test_stacking_weights_maximise_the_validation_likelihood(case):
    generator = np.random.default_rng(case)
    members, samples, classes = generator.integers([2, 30, 2], [7, 200, 6])
    labels = generator.integers(classes, size=samples)
    noise = generator.uniform(0.5, 3, size=(members, 1, 1)) * generator.normal(size=(members, samples, classes))
    logits = 2 * np.eye(classes)[labels] + noise
    weights = stacking_weights(logits, labels)
    assert weights.shape == (members,)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    optimum = minimize(
        lambda w: -mean_log_likelihood(w, logits, labels),
        np.full(members, 1 / members),
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert optimum.success
    assert mean_log_likelihood(weights, logits, labels) == pytest.approx(-optimum.fun, abs=1e-6)
    np.testing.assert_array_equal(weights, stacking_weights(logits, labels))


def test_stacking_weights_of_members_right_by_turns():
    # One member is right on three samples of four, the other on the fourth:
    # 3/4 log w + 1/4 log(1 - w) peaks at 3/4.
    labels = np.array([0, 0, 0, 0])
    logits = log(np.array([[[1.0, 0.0]] * 3 + [[0.0, 1.0]], [[0.0, 1.0]] * 3 + [[1.0, 0.0]]]))
    np.testing.assert_allclose(stacking_weights(logits, labels), [0.75, 0.25], rtol=0, atol=1e-6)


def test_stacking_weights_go_to_a_member_that_is_better_everywhere():
    logits = np.log([[[0.9, 0.1]] * 5, [[0.6, 0.4]] * 5])
    np.testing.assert_allclose(stacking_weights(logits, [0] * 5), [1, 0], rtol=0, atol=1e-6)


def test_equal_members_get_equal_stacking_weights():
    generator = np.random.default_rng(9)
    logits = generator.normal(size=(2, 100, 3))
    weights = stacking_weights(logits[[0, 1, 0, 1, 1]], generator.integers(3, size=100))
    np.testing.assert_allclose(weights[[0, 1, 1]], weights[[2, 3, 4]], rtol=0, atol=1e-12)
    np.testing.assert_allclose(stacking_weights(logits[[0, 0, 0]], [0] * 100), 1 / 3, rtol=0, atol=1e-15)


def test_impossible_samples_do_not_count():
    generator = np.random.default_rng(10)
    logits = generator.normal(size=(3, 40, 3))
    labels = generator.integers(3, size=40)
    impossible = np.tile([0.0, 0.0, -INF], (3, 2, 1))
    more = np.concatenate([logits, impossible], axis=1)
    np.testing.assert_array_equal(stacking_weights(logits, labels), stacking_weights(more, [*labels, 2, 2]))
    np.testing.assert_array_equal(stacking_weights(impossible, [2, 2]), np.full(3, 1 / 3))


def test_tiny_likelihoods_do_not_vanish():
    # exp(-2000) is 0 in float64, but the members still differ in how wrong they are.
    logits = np.array([[[0.0, 2000.0]], [[0.0, 2001.0]]])
    np.testing.assert_allclose(stacking_weights(logits, [0]), [1, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0, 1], "labels must be 3 class indices, one for each sample of the logits"),
        ([0.0, 1.0, 1.0], "but they are float64 of shape [3]"),
        ([0, 1, 2], "labels must lie in 0 .. 1, the classes of the logits, but they run from 0 to 2."),
        ([0, 1, -1], "but they run from -1 to 1."),
    ],
)
def test_stacking_refuses_labels_that_do_not_fit(labels, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        stacking_weights(np.zeros((2, 3, 2)), labels)


def test_stacking_refuses_bad_members_by_seed():
    logits = np.zeros((2, 3, 2))
    logits[1, 1, 1] = np.nan
    with pytest.raises(ValueError, match="members with seeds 12 are"):
        stacking_weights(logits, [0, 0, 1], seeds=[11, 12])


def test_stacking_gives_dropped_members_no_weight():
    generator = np.random.default_rng(11)
    logits, labels = generator.normal(size=(4, 60, 3)), generator.integers(3, size=60)
    logits[1, 5] = np.nan
    weights = stacking_weights(logits, labels, on_bad_member="drop")
    np.testing.assert_array_equal(weights[[0, 2, 3]], stacking_weights(logits[[0, 2, 3]], labels))
    assert weights[1] == 0
    assert_same(
        vote(logits, "weighted", weights=weights, on_bad_member="drop"),
        vote(logits[[0, 2, 3]], "weighted", weights=weights[[0, 2, 3]]),
    )
