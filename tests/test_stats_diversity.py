"""Diversity and classes against scikit-learn, scipy and hand-made cases."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import cohen_kappa_score, confusion_matrix, recall_score

from seedvote import stats

examples = settings(max_examples=25, deadline=None, derandomize=True)


def draw(seed, members=4, samples=60, classes=3):
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=samples)
    labels = np.where(
        generator.random((members, samples)) < 0.6, targets, generator.integers(classes, size=(members, samples))
    )
    return labels, targets


@examples
@given(seed=st.integers(0, 10**6), members=st.integers(2, 5), classes=st.integers(2, 6))
def test_pairwise_measures_are_those_of_scikit_learn_and_scipy(seed, members, classes):
    labels, targets = draw(seed, members, classes=classes)
    result = stats.diversity(labels, targets)
    pairs = list(combinations(range(members), 2))
    correct = labels == targets
    assert result.disagreement == pytest.approx(np.mean([(labels[a] != labels[b]).mean() for a, b in pairs]))
    kappas = [cohen_kappa_score(labels[a], labels[b]) for a, b in pairs]
    assert result.kappa == pytest.approx(np.mean(kappas), abs=1e-12)
    phis = [pearsonr(~correct[a], ~correct[b]).statistic for a, b in pairs]
    assert result.error_correlation == pytest.approx(np.mean(phis), abs=1e-12)
    yules = []
    for a, b in pairs:
        ((n11, n10), (n01, n00)) = [
            [(correct[a] == x) & (correct[b] == y) for y in (True, False)] for x in (True, False)
        ]
        n11, n10, n01, n00 = (int(cell.sum()) for cell in (n11, n10, n01, n00))
        yules.append((n11 * n00 - n10 * n01) / (n11 * n00 + n10 * n01))
    assert result.yule_q == pytest.approx(np.mean(yules), abs=1e-12)
    assert result.disagreement_normalized == pytest.approx(result.disagreement / (1 - correct.mean()))
    assert result.oracle_accuracy == correct.any(axis=0).mean()
    assert result.reasons == {} and set(result.pairs.values()) == {len(pairs)}
    assert result.disagreement_matrix[0, 1] == (labels[0] != labels[1]).mean()
    np.testing.assert_array_equal(result.disagreement_matrix, result.disagreement_matrix.T)


def test_one_member_differs_from_nobody():
    result = stats.diversity(np.array([[0, 1]]), np.array([0, 0]))
    assert result.disagreement is result.kappa is result.yule_q is result.error_correlation is None
    assert result.disagreement_normalized is None and result.oracle_accuracy == 0.5
    assert set(result.reasons.values()) == {"one member has nobody to differ from"} and len(result.reasons) == 5


def test_perfect_members_have_no_errors_to_correlate():
    result = stats.diversity(np.array([[0, 1, 1], [0, 1, 1]]), np.array([0, 1, 1]))
    assert (result.disagreement, result.kappa) == (0, pytest.approx(1))
    assert result.error_correlation is result.yule_q is result.disagreement_normalized is None
    assert result.reasons["disagreement_normalized"] == "no member makes any error"
    same_class = stats.diversity(np.zeros((2, 3), dtype=int), np.array([0, 1, 1]))
    assert same_class.kappa is None and "one class" in same_class.reasons["kappa"]


def test_a_pair_without_a_value_is_left_out_and_counted():
    labels = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [0, 1, 1, 1]])
    result = stats.diversity(labels, np.array([0, 1, 1, 1]))
    assert result.pairs == {"disagreement": 3, "error_correlation": 1, "yule_q": 1, "kappa": 3}


def test_agreement_is_tabled_against_correctness():
    labels = np.array([[0, 0, 1, 2], [0, 0, 1, 1], [0, 1, 2, 0], [0, 1, 1, 3]])
    table = stats.agreement_table(labels, np.array([0, 0, 1, 0]), np.array([0, 1, 1, 1]))
    assert [(row.lower, row.upper, row.count, row.accuracy) for row in table] == [
        (0, 0.25, 1, 0.0),
        (0.25, 0.5, 1, 0.0),
        (0.5, 0.75, 1, 1.0),
        (0.75, 1, 1, 1.0),
    ]


@examples
@given(seed=st.integers(0, 10**6), members=st.integers(1, 30))
def test_agreement_counts_every_sample_once(seed, members):
    labels, targets = draw(seed, members)
    table = stats.agreement_table(labels, labels[0], targets)
    assert sum(row.count for row in table) == 60 and len(table) == min(members, 10)
    shares = [np.bincount(column).max() / members for column in labels.T]
    for row in table:
        assert row.count == sum(row.lower + 1e-9 < share <= row.upper + 1e-9 for share in shares)


@examples
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 5))
def test_recalls_and_confusions_are_those_of_scikit_learn(seed, classes):
    labels, targets = draw(seed, 3, 80, classes)
    result = stats.per_class(labels, labels[0], targets, classes=classes)
    names = list(range(classes))
    np.testing.assert_array_equal(result.vote_confusion, confusion_matrix(targets, labels[0], labels=names))
    singles = np.mean([confusion_matrix(targets, member, labels=names) for member in labels], axis=0)
    np.testing.assert_allclose(result.single_confusion, singles)
    assert result.vote == pytest.approx(recall_score(targets, labels[0], labels=names, average=None))
    recalls = np.mean([recall_score(targets, member, labels=names, average=None) for member in labels], axis=0)
    assert result.single == pytest.approx(recalls)
    assert result.difference == pytest.approx(np.subtract(result.vote, result.single))
    assert sum(result.support) == 80 and result.reason is None


def test_a_class_absent_from_test_has_no_recall():
    labels = np.array([[0, 2, 1], [0, 2, -1]])
    result = stats.per_class(labels, labels[1], np.array([0, 2, 0]), classes=4)
    assert result.support == (2, 0, 1, 0)
    assert result.vote == (0.5, None, 1.0, None) and result.difference == (0.0, None, 0.0, None)
    assert result.reason == "no sample of class 1, 3, which has no recall"
    assert result.vote_confusion.sum() == 2  # the abstention is in no column
    with pytest.raises(ValueError, match=r"Classes in 0 \.\. 1 were wanted, but there is a class 2"):
        stats.per_class(labels, labels[1], np.array([0, 2, 0]), classes=2)


def test_samples_saved_from_and_lost_to_the_members():
    correct = np.array([[1, 0, 0, 1, 1], [1, 0, 1, 1, 1], [1, 1, 0, 0, 1], [1, 0, 1, 1, 1]])
    result = stats.outvoted(correct, [1, 1, 1, 0, 0])
    assert result.saved.tolist() == [1, 2] and result.lost.tolist() == [4, 3]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="labels are for 2 samples, but there are 3 targets"):
        stats.diversity(np.zeros((2, 2), dtype=int), np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match=r"labels must be class indices of shape \[members, samples\]"):
        stats.diversity(np.zeros(2), np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="decisions must be 2 class indices"):
        stats.agreement_table(np.zeros((2, 2), dtype=int), np.zeros(3, dtype=int), np.zeros(2, dtype=int))
