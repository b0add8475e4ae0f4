"""Scores, calibration and selective prediction against scikit-learn, torchmetrics, scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from seedvote import stats

examples = settings(max_examples=25, deadline=None, derandomize=True)


def draw(seed, members=4, samples=60, classes=5, sharpness=2.0):
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=samples)
    logits = generator.normal(size=(members, samples, classes)) * sharpness
    logits[:, np.arange(samples), targets] += 1.5
    return softmax(logits, axis=2), targets


@examples
@given(seed=st.integers(0, 10**6), classes=st.integers(3, 8), sharpness=st.floats(0.1, 5))
def test_scores_are_those_of_scikit_learn(seed, classes, sharpness):
    probabilities, targets = draw(seed, 1, 50, classes, sharpness)
    scores = stats.score(probabilities[0], targets)
    names = list(range(classes))
    assert scores.accuracy == accuracy_score(targets, probabilities[0].argmax(axis=1))
    assert scores.negative_log_likelihood == pytest.approx(log_loss(targets, probabilities[0], labels=names), abs=1e-12)
    expected = brier_score_loss(targets, probabilities[0], labels=names, scale_by_half=False)
    assert scores.brier == pytest.approx(expected, abs=1e-12)


def test_two_classes_have_twice_the_halved_brier_score():
    probabilities, targets = draw(0, 1, 50, 2)
    expected = brier_score_loss(targets, probabilities[0][:, 1], scale_by_half=True)
    assert stats.brier(probabilities[0], targets) == pytest.approx(2 * expected, abs=1e-12)


def test_brier_runs_from_0_to_2():
    certain = np.eye(3)
    assert stats.brier(certain, np.arange(3)) == 0
    assert stats.brier(certain, np.array([1, 2, 0])) == 2


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_that_of_torchmetrics(bins):
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    probabilities, targets = draw(1, 1, 400, 4)
    expected = torchmetrics.multiclass_calibration_error(
        torch.tensor(probabilities[0]), torch.tensor(targets), num_classes=4, n_bins=bins, norm="l1"
    )
    error = stats.expected_calibration_error(probabilities[0], targets, bins=bins)
    assert error == pytest.approx(float(expected), abs=1e-6)


def test_calibration_error_is_the_loop_over_bins():
    probabilities, targets = draw(2, 1, 300, 3)
    confidence, right = probabilities[0].max(axis=1), probabilities[0].argmax(axis=1) == targets
    total, rows = 0.0, stats.reliability(probabilities[0], targets)
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        assert rows[b].count == inside.sum()
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
            assert rows[b].confidence == pytest.approx(confidence[inside].mean())
            assert rows[b].accuracy == pytest.approx(right[inside].mean())
        else:
            assert rows[b].confidence is None and rows[b].accuracy is None
    assert stats.expected_calibration_error(probabilities[0], targets) == pytest.approx(total, abs=1e-12)


def test_certain_predictions_are_in_the_last_bin():
    rows = stats.reliability(np.eye(2), np.array([0, 1]))
    assert rows[-1] == stats.ReliabilityBin(14 / 15, 1.0, 2, 1.0, 1.0)


def test_summary():
    assert stats.summarize([0.25]) == stats.Summary(0.25, None, 0.25, 0.25, 1)
    several = stats.summarize([1, 2, 4])
    assert several.deviation == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert (several.mean, several.minimum, several.maximum, several.count) == (pytest.approx(7 / 3), 1, 4, 3)
    with pytest.raises(ValueError, match="only finite values"):
        stats.summarize([float("nan")])


def test_members_are_scored_one_by_one():
    probabilities, targets = draw(3)
    assert stats.score_members(probabilities, targets) == tuple(stats.score(p, targets) for p in probabilities)


@examples
@given(seed=st.integers(0, 10**6), sharpness=st.floats(0.3, 6))
def test_the_temperature_is_the_best_one(seed, sharpness):
    probabilities, targets = draw(seed, 1, 80, 4, sharpness)
    temperature = stats.fit_temperature(probabilities[0], targets)

    def loss(inverse):
        rows = log_softmax(np.log(probabilities[0]) * inverse, axis=1)
        return -rows[np.arange(len(targets)), targets].mean()

    best = minimize(lambda x: loss(x[0]), [1.0], method="L-BFGS-B", bounds=[(1 / 50, 1 / 0.02)])
    assert loss(1 / temperature) <= best.fun + 1e-9


def test_pooled_and_too_timid_probabilities_are_sharpened():
    probabilities, targets = draw(4, 5, 2000, 4)
    pooled = probabilities.mean(axis=0)
    half = len(targets) // 2
    result = stats.calibrate(pooled[:half], targets[:half], pooled[half:], targets[half:])
    assert 0.02 < result.temperature < 1 and not result.at_bound
    assert result.after.negative_log_likelihood < result.before.negative_log_likelihood
    assert result.after.accuracy == result.before.accuracy
    np.testing.assert_allclose(result.probabilities, softmax(np.log(pooled[half:]) / result.temperature, axis=1))
    np.testing.assert_allclose(stats.apply_temperature(pooled, 1.0), pooled, atol=1e-12)


def test_a_validation_split_without_errors_is_said_to_reach_the_bound():
    rows = np.array([[0.9, 0.1], [0.2, 0.8]])
    result = stats.calibrate(rows, np.array([0, 1]), rows, np.array([0, 1]))
    assert result.at_bound and result.temperature == pytest.approx(0.02)
    assert np.isfinite(result.probabilities).all()


def test_impossible_outcomes_cost_a_finite_amount():
    rows = np.array([[1.0, 0.0], [1.0, 0.0]])
    targets = np.array([1, 0])
    assert stats.negative_log_likelihood(rows, targets) == pytest.approx(36.04 / 2, abs=0.01)
    assert np.isfinite(stats.fit_temperature(rows, targets))


def test_confidence_scores_are_their_formulas():
    probabilities, _ = draw(5)
    scores = stats.confidence_scores(probabilities.astype(np.float32))
    mean = probabilities.mean(axis=0)
    np.testing.assert_allclose(scores.max_probability, mean.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(scores.negative_entropy, -entropy(mean, axis=1), atol=1e-6)
    between = entropy(mean, axis=1) - entropy(probabilities, axis=2).mean(axis=0)
    np.testing.assert_allclose(scores.negative_mutual_information, -between, atol=1e-6)
    agreement = (probabilities.argmax(axis=2) == mean.argmax(axis=1)).mean(axis=0)
    np.testing.assert_allclose(scores.agreement, agreement, atol=1e-12)


def test_equal_members_have_no_mutual_information_at_all():
    probabilities, _ = draw(6, 1)
    same = np.repeat(probabilities, 7, axis=0)
    assert not stats.confidence_scores(same).negative_mutual_information.any()
    assert (stats.confidence_scores(same).agreement == 1).all()


@examples
@given(seed=st.integers(0, 10**6), levels=st.integers(1, 6))
def test_risk_is_the_mean_over_all_orders_of_tied_samples(seed, levels):
    generator = np.random.default_rng(seed)
    confidence, correct = generator.integers(levels, size=12), generator.random(12) < 0.6
    risks = []
    for _ in range(4000):
        order = np.lexsort((generator.random(12), -confidence))
        risks.append(np.cumsum(~correct[order]) / np.arange(1, 13))
    curve = stats.risk_coverage(confidence, correct)
    np.testing.assert_allclose(curve.risk, np.mean(risks, axis=0), atol=0.04)
    assert curve.area == pytest.approx(np.mean(risks), abs=0.02)
    assert curve.risk[-1] == pytest.approx(1 - correct.mean())


def test_risk_and_coverage_of_a_known_order():
    curve = stats.risk_coverage([0.9, 0.8, 0.7, 0.6], [True, False, True, True])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [0, 1 / 2, 1 / 3, 1 / 4])
    assert curve.excess_area == pytest.approx(np.mean([0, 1 / 2, 1 / 3, 0]))
    assert stats.accuracy_at_coverage(curve, 0.5) == 0.5
    assert stats.accuracy_at_coverage(curve, 0.51) == pytest.approx(2 / 3)
    assert stats.risk_coverage([2, 1], [True, False]).excess_area == 0
    assert stats.risk_coverage([1, 1, 1], [True, True, True]).area == 0
    with pytest.raises(ValueError, match="coverage must lie"):
        stats.accuracy_at_coverage(curve, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), [0, 1]), "sum to 1 for each sample, but sample 0"),
        ((np.full((2, 2), np.nan), [0, 1]), "sample 0 is otherwise"),
        ((np.full((2, 2), 0.5), [0, 2]), "2 classes in 0 .. 1 to fit the probabilities"),
        ((np.full((2, 2), 0.5), [0.0, 1.0]), "targets must be class indices"),
        ((np.full(2, 0.5), [0, 1]), r"must have shape \[samples, classes\]"),
    ],
)
def test_what_is_no_probability_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        stats.score(*arguments)
