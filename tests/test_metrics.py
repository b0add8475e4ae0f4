"""Scores against scikit-learn, scipy and known answers."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from seedvote.metrics import (
    accuracy,
    entropy,
    mean_and_deviation,
    member_accuracies,
    member_labels,
    won_and_lost,
)


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def test_accuracy_is_scikit_learns(generator):
    labels, targets = generator.integers(-1, 4, 500), generator.integers(0, 4, 500)
    assert accuracy(labels, targets) == accuracy_score(targets, labels)
    assert accuracy([2, -1, 0, 1], [2, 2, 0, 0]) == 0.5
    assert accuracy([-1, -1], [0, 1]) == 0.0


def test_member_accuracies_are_those_of_the_arg_max(generator):
    logits, targets = generator.normal(size=(5, 200, 3)), generator.integers(0, 3, 200)
    expected = [accuracy_score(targets, member.argmax(axis=1)) for member in logits]
    np.testing.assert_array_equal(member_accuracies(logits, targets), expected)


def test_a_members_equal_logits_go_to_the_lowest_class():
    np.testing.assert_array_equal(member_labels([[[1, 3, 3], [2, 2, 2], [-np.inf, 0, 1]]]), [[1, 0, 2]])


@pytest.mark.parametrize("row", [[np.nan, 0.0], [0.0, np.nan], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_a_bad_member_has_no_labels_and_no_accuracy(row):
    logits = np.zeros((3, 4, 2))
    logits[2, 1] = row
    for refused in (member_labels, lambda values: member_accuracies(values, [0] * 4)):
        with pytest.raises(ValueError, match="the members at positions 2 have NaN"):
            refused(logits)


def test_mean_and_deviation_of_known_values():
    assert mean_and_deviation([2, 4, 4, 4, 5, 5, 7, 9]) == (5.0, pytest.approx(math.sqrt(32 / 7), rel=1e-15))
    assert mean_and_deviation([0.25]) == (0.25, None)
    assert mean_and_deviation(np.full(3, 0.1)) == (0.1, 0.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_mean_and_deviation_are_numpys(values):
    mean, deviation = mean_and_deviation(values)
    scale = 1e-12 * max(1.0, *map(abs, values))
    assert mean == pytest.approx(np.mean(values), rel=1e-12, abs=scale)
    assert deviation == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=scale)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_mean_and_deviation_want_finite_values(values):
    with pytest.raises(ValueError, match=re.escape(f"only finite values, were wanted, but got {values}.")):
        mean_and_deviation(values)


def test_won_and_lost_by_hand():
    targets = [0, 1, 2, 0, 1, 2]
    vote = [0, 1, 2, 1, 0, -1]
    reference = [0, 0, 1, 0, 2, 2]
    won, lost = won_and_lost(vote, reference, targets)
    np.testing.assert_array_equal(won, [1, 2])
    np.testing.assert_array_equal(lost, [3, 5])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_won_less_lost_is_the_difference_of_the_accuracies(samples, seed):
    vote, reference = np.random.default_rng(seed).integers(-1, 3, size=(2, samples))
    targets = np.random.default_rng(seed + 1).integers(0, 3, size=samples)
    won, lost = won_and_lost(vote, reference, targets)
    difference = accuracy(vote, targets) - accuracy(reference, targets)
    assert (len(won) - len(lost)) / samples == pytest.approx(difference, abs=1e-12)
    assert not set(won) & set(lost)
    backwards = won_and_lost(reference, vote, targets)
    np.testing.assert_array_equal(backwards[0], lost)
    np.testing.assert_array_equal(backwards[1], won)


def test_entropy_is_scipys(generator):
    probabilities = generator.dirichlet([0.3] * 5, size=100)
    expected = scipy.stats.entropy(probabilities, axis=1)
    np.testing.assert_allclose(entropy(probabilities), expected, rtol=0, atol=1e-13)


def test_entropy_of_known_rows():
    rows = [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
    np.testing.assert_allclose(entropy(rows), [0, math.log(2), math.log(4)], rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: accuracy([0, 1], [0, 1, 1]), "labels must be 3 class indices, one for each target"),
        (lambda: accuracy([0.0, 1.0], [0, 1]), "but they are float64 of shape [2]."),
        (lambda: accuracy([0, 1], [0, -1]), "with a lowest of -1."),
        (lambda: accuracy([], []), "at least one and none negative, but they are float64 of shape [0]."),
        (lambda: won_and_lost([0], [0, 1], [0]), "reference_labels must be 1 class indices"),
        (lambda: won_and_lost([[0]], [0], [0]), "vote_labels must be 1 class indices"),
        (lambda: member_labels(np.zeros((2, 3))), "but they are float64 of shape [2, 3]: stack the members"),
        (lambda: member_accuracies(np.zeros((1, 3, 2)), [0, 0]), "one class for each of 3 samples, not 2."),
        (lambda: entropy([0.5, 0.5]), "probabilities must have shape [samples, classes]"),
        (lambda: entropy([[0.5, 0.5], [2.0, -1.0]]), "but sample 1 is otherwise: apply a softmax"),
        (lambda: entropy([[0.5, 0.4]]), "but sample 0 is otherwise"),
        (lambda: entropy([[0.5, np.nan]]), "but sample 0 is otherwise"),
    ],
)
def test_mistakes_are_named(call, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        call()
