"""Scores of probabilities against the true classes, and how single members' scores spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from seedvote.stats.arrays import (
    Floats,
    Integers,
    checked_members,
    checked_probabilities,
    checked_targets,
)

CALIBRATION_BINS = 15
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Summary:
    """How values spread: mean, sample deviation (``n - 1``; ``None`` for one value), extremes and count."""

    mean: float
    deviation: float | None
    minimum: float
    maximum: float
    count: int


@dataclass(frozen=True)
class Scores:
    """Scores of one set of probabilities.

    accuracy: of the arg max (lowest class if tied), 0 .. 1. negative_log_likelihood: nats for each sample.
    brier: 0 .. 2. expected_calibration_error: 0 .. 1.
    """

    accuracy: float
    negative_log_likelihood: float
    brier: float
    expected_calibration_error: float


def summarize(values: Iterable[float]) -> Summary:
    """Mean, ``sqrt(sum_i (x_i - mean)^2 / (n - 1))``, minimum and maximum, in the values' unit.

    Raises ``ValueError`` for no values and for values that are not finite.
    """
    numbers = [float(value) for value in values]
    if not numbers or not np.isfinite(numbers).all():
        raise ValueError(f"At least one value, and only finite values, were wanted, but got {numbers}.")
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Summary(statistics.mean(numbers), deviation, min(numbers), max(numbers), len(numbers))


def score(probabilities: ArrayLike, targets: ArrayLike, *, bins: int = CALIBRATION_BINS) -> Scores:
    """All ``Scores`` of probabilities ``[S, C]`` against true classes ``[S]``.

    Raises ``ValueError`` for wrong shapes, targets outside ``0 .. C-1`` and rows that are no probabilities.
    """
    rows, true = _checked(probabilities, targets)
    binned = binned_confidence(rows, true, bins)
    chosen = rows[np.arange(len(rows)), true]
    return Scores(float(binned[2].mean()), _log_loss(chosen), _brier(rows, chosen), _calibration_error(*binned, bins))


def score_members(probabilities: ArrayLike, targets: ArrayLike) -> tuple[Scores, ...]:
    """``score`` of each member alone; probabilities ``[M, S, C]``, true classes ``[S]``."""
    true = checked_targets(targets)
    return tuple(score(member, true) for member in checked_members(probabilities, true))


def negative_log_likelihood(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Mean ``-log p(target)`` over samples, in nats; a strictly proper score (Good 1952).

    Probabilities below 2.2e-16 (float64 machine epsilon, as in scikit-learn's ``log_loss``) count as that.
    probabilities: ``[S, C]``. targets: ``[S]``. Raises ``ValueError`` as ``score`` does.
    """
    rows, true = _checked(probabilities, targets)
    return _log_loss(rows[np.arange(len(rows)), true])


def brier(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Mean ``sum_c (p_c - [c = target])^2`` over samples, 0 .. 2: the original form of Brier (1950).

    scikit-learn's ``brier_score_loss`` gives this for several classes and, by default, half of it for two.
    probabilities: ``[S, C]``. targets: ``[S]``. Raises ``ValueError`` as ``score`` does.
    """
    rows, true = _checked(probabilities, targets)
    return _brier(rows, rows[np.arange(len(rows)), true])


def expected_calibration_error(probabilities: ArrayLike, targets: ArrayLike, *, bins: int = CALIBRATION_BINS) -> float:
    """``sum_b n_b / S |accuracy_b - confidence_b|`` over equal-width bins of the top probability, 0 .. 1.

    Bin b holds confidences in ``(b / bins, (b + 1) / bins]`` (Guo, Pleiss, Sun and Weinberger, ICML 2017,
    with their 15 bins). It depends on the binning and is biased upward for few samples.
    probabilities: ``[S, C]``. targets: ``[S]``. Raises ``ValueError`` as ``score`` does, and for no bins.
    """
    rows, true = _checked(probabilities, targets)
    return _calibration_error(*binned_confidence(rows, true, bins), bins)


def binned_confidence(rows: Floats, true: Integers, bins: int) -> tuple[Integers, Floats, Floats]:
    """Bin, top probability and correctness of each sample, all ``[S]``."""
    if bins < 1:
        raise ValueError(f"At least one bin is needed, but bins is {bins}: try the default {CALIBRATION_BINS}.")
    decided = rows.argmax(axis=1)
    confidence = rows[np.arange(len(rows)), decided]
    right = (decided == true).astype(np.float64)
    places = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    return places.astype(np.int64), confidence, right


def _checked(probabilities: ArrayLike, targets: ArrayLike) -> tuple[Floats, Integers]:
    true = checked_targets(targets)
    return checked_probabilities(probabilities, true), true


def _log_loss(chosen: Floats) -> float:
    return float(-np.log(np.clip(chosen, SMALLEST_PROBABILITY, 1.0)).mean()) + 0.0


def _brier(rows: Floats, chosen: Floats) -> float:
    squares = np.einsum("sc,sc->s", rows, rows)  # no array of all squares is made
    return float((squares - 2 * chosen + 1).clip(0).mean())


def _calibration_error(places: Integers, confidence: Floats, right: Floats, bins: int) -> float:
    gaps = np.bincount(places, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(places))
