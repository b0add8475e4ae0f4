"""Whether the vote's probabilities mean what they say, and one number that helps them to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from seedvote.stats.arrays import Floats, checked_probabilities, checked_targets
from seedvote.stats.scores import CALIBRATION_BINS, SMALLEST_PROBABILITY, Scores, binned_confidence, score

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.02, 50.0


@dataclass(frozen=True)
class ReliabilityBin:
    """Samples whose top probability lies in ``lower < p <= upper``.

    confidence: their mean top probability; accuracy: fraction of them decided right; ``None`` where count is 0.
    """

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a temperature fitted on validation does to test probabilities.

    at_bound: whether the temperature is at an end of 0.02 .. 50, as after a validation split without any error.
    before, after: test scores without and with it. probabilities: ``[S, C]``, the test probabilities with it.
    """

    temperature: float
    at_bound: bool
    before: Scores
    after: Scores
    probabilities: Floats


def reliability(
    probabilities: ArrayLike, targets: ArrayLike, *, bins: int = CALIBRATION_BINS
) -> tuple[ReliabilityBin, ...]:
    """Confidence against accuracy in equal-width bins: the reliability diagram behind the calibration error.

    Murphy and Winkler (1977); the bins are those of ``expected_calibration_error``.
    probabilities: ``[S, C]``. targets: ``[S]``. Raises ``ValueError`` for wrong shapes, targets outside
    ``0 .. C-1``, rows that are no probabilities and no bins.
    """
    true = checked_targets(targets)
    places, confidence, right = binned_confidence(checked_probabilities(probabilities, true), true, bins)
    counts = np.bincount(places, minlength=bins)
    sums = [np.bincount(places, weights=values, minlength=bins) for values in (confidence, right)]
    rows = []
    for row, count in enumerate(counts.tolist()):
        means = [float(values[row] / count) if count else None for values in sums]
        rows.append(ReliabilityBin(row / bins, (row + 1) / bins, count, *means))
    return tuple(rows)


def fit_temperature(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Temperature T that minimises the negative log-likelihood of ``softmax(log(p) / T)``, in 0.02 .. 50.

    Temperature scaling (Guo, Pleiss, Sun and Weinberger, ICML 2017) of pooled probabilities: pooling first and
    calibrating then is the better order (Rahaman and Thiery, NeurIPS 2021). In ``1 / T`` the problem is convex, so
    that the one minimum over ``log T`` is found by Brent's bounded search.

    probabilities: ``[S, C]``, the vote's on the validation split, never on test. targets: ``[S]``.
    Raises ``ValueError`` as ``score`` does.
    """
    true = checked_targets(targets)
    logs = _logs(checked_probabilities(probabilities, true))
    samples = np.arange(len(true))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logs / np.exp(log_temperature), axis=1)
        return float(-scaled[samples, true].mean())

    bounds = (float(np.log(LOWEST_TEMPERATURE)), float(np.log(HIGHEST_TEMPERATURE)))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    # The search never tries the ends themselves; T = 1 keeps a temperature that would help nobody at 1.
    best = min((0.0, *bounds, float(found.x)), key=loss)
    return float(np.exp(best))


def apply_temperature(probabilities: ArrayLike, temperature: float) -> Floats:
    """``softmax(log(p) / T)``, ``[S, C]``; probabilities below 2.2e-16 count as that.

    Raises ``ValueError`` for rows that are no probabilities and for a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, but it is {temperature}.")
    scaled: Floats = softmax(_logs(checked_probabilities(probabilities)) / temperature, axis=1)
    return scaled


def calibrate(
    validation_probabilities: ArrayLike,
    validation_targets: ArrayLike,
    test_probabilities: ArrayLike,
    test_targets: ArrayLike,
) -> Calibration:
    """Fit the temperature on validation and score the test probabilities without and with it.

    Probabilities are the vote's, ``[S, C]``; targets ``[S]``. Decisions do not change. Raises ``ValueError`` as
    ``score`` does.
    """
    temperature = fit_temperature(validation_probabilities, validation_targets)
    scaled = apply_temperature(test_probabilities, temperature)
    return Calibration(
        temperature,
        not LOWEST_TEMPERATURE * 1.001 < temperature < HIGHEST_TEMPERATURE * 0.999,
        score(test_probabilities, test_targets),
        score(scaled, test_targets),
        scaled,
    )


def _logs(probabilities: Floats) -> Floats:
    logs: Floats = np.log(np.clip(probabilities, SMALLEST_PROBABILITY, None))
    return logs
