"""Scores of decisions and of probabilities; arrays in, numbers out. ``seedvote.stats`` has what ``compare`` needs.

Written in numpy, as each is a line or two and importing ``sklearn.metrics`` would take longer than any; the
tests hold them against scikit-learn and scipy. A deviation that is not defined is ``None``, never NaN.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ROW_SUM_TOLERANCE = 1e-4  # float32 rounding over a thousand classes stays below it; logits do not


def accuracy(labels: ArrayLike, targets: ArrayLike) -> float:
    """Fraction of samples decided right: ``mean_s [labels_s = targets_s]``, in 0 .. 1.

    labels: ``[S]``, decided classes; -1, an abstention, is never right. targets: ``[S]``, true classes.
    Raises ``ValueError`` for wrong shapes.
    """
    true = _checked_targets(targets)
    return float((_checked_decisions("labels", labels, true) == true).mean())


def member_labels(logits: ArrayLike) -> Integers:
    """Each member's own decisions ``[M, S]``: arg max of its logits ``[M, S, C]``, the lowest if tied.

    Raises ``ValueError`` for wrong shapes, and for a member with a NaN, a +inf or a sample of nothing but
    -inf, whose arg max would be a class index without a meaning.
    """
    values = np.asarray(logits)
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "fiu":
        raise ValueError(
            "logits must be real numbers of shape [members, samples, classes] with at least one of each, "
            f"but they are {values.dtype} of shape {list(values.shape)}: stack the members on the first axis."
        )
    with np.errstate(invalid="ignore"):
        bad = [m for m, member in enumerate(values) if not np.isfinite(member.max(axis=1)).all()]
    if bad:
        raise ValueError(
            f"Finite logits were wanted, but the members at positions {', '.join(map(str, bad))} have NaN, "
            "+inf or only -inf for at least one sample: train them again or leave them out."
        )
    labels: Integers = values.argmax(axis=2).astype(np.int64)
    return labels


def member_accuracies(logits: ArrayLike, targets: ArrayLike) -> Floats:
    """Accuracy ``[M]`` of each member alone, in 0 .. 1.

    logits: ``[M, S, C]``. targets: ``[S]``, true classes. Raises ``ValueError`` as ``member_labels`` does.
    """
    true = _checked_targets(targets)
    decisions = member_labels(logits)
    if decisions.shape[1] != len(true):
        raise ValueError(f"targets must hold one class for each of {decisions.shape[1]} samples, not {len(true)}.")
    accuracies: Floats = (decisions == true).mean(axis=1)
    return accuracies


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation ``sqrt(sum_i (x_i - mean)^2 / (n - 1))``, in the values' unit.

    The deviation is ``None`` for one value. Sums are exact, so that equal values have a deviation of 0.
    Raises ``ValueError`` for no values and for values that are not finite.
    """
    numbers = [float(value) for value in values]
    if not numbers or not np.isfinite(numbers).all():
        raise ValueError(f"At least one value, and only finite values, were wanted, but got {numbers}.")
    return statistics.mean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None


def won_and_lost(vote_labels: ArrayLike, reference_labels: ArrayLike, targets: ArrayLike) -> tuple[Integers, Integers]:
    """Samples that the vote wins and loses against a reference, as ascending indices ``(won, lost)``.

    won: the vote is right and the reference wrong. lost: the vote is wrong and the reference right.
    The reference is any decisions on the same samples, for example those of the member chosen on validation.
    An abstention (-1) is wrong. ``(len(won) - len(lost)) / S`` is the difference of the accuracies.

    vote_labels, reference_labels, targets: ``[S]``. Raises ``ValueError`` for wrong shapes.
    """
    true = _checked_targets(targets)
    vote_right = _checked_decisions("vote_labels", vote_labels, true) == true
    reference_right = _checked_decisions("reference_labels", reference_labels, true) == true
    return np.flatnonzero(vote_right & ~reference_right), np.flatnonzero(~vote_right & reference_right)


def entropy(probabilities: ArrayLike) -> Floats:
    """Entropy ``[S]`` of each row, ``-sum_c p_c log p_c`` with ``0 log 0 = 0``, in nats, 0 .. log C.

    probabilities: ``[S, C]``, rows sum to 1. Raises ``ValueError`` for rows that are no probabilities.
    """
    entropies: Floats = entr(_checked_probabilities(probabilities)).sum(axis=1)
    return entropies


def _checked_targets(targets: ArrayLike) -> Integers:
    values = np.asarray(targets)
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iu" or values.min() < 0:
        raise ValueError(
            "targets must be class indices of shape [samples], at least one and none negative, "
            f"but they are {values.dtype} of shape {list(values.shape)}"
            + (f" with a lowest of {values.min()}." if values.ndim == 1 and len(values) else ".")
        )
    return values.astype(np.int64)


def _checked_decisions(name: str, labels: ArrayLike, targets: Integers) -> Integers:
    values = np.asarray(labels)
    if values.shape != targets.shape or values.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be {len(targets)} class indices, one for each target, "
            f"but they are {values.dtype} of shape {list(values.shape)}."
        )
    return values.astype(np.int64)


def _checked_probabilities(probabilities: ArrayLike) -> Floats:
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            "probabilities must have shape [samples, classes] with at least one of each, "
            f"but they have shape {list(values.shape)}."
        )
    # Written so that a NaN fails.
    good = (values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) <= _ROW_SUM_TOLERANCE)
    if not good.all():
        raise ValueError(
            f"probabilities must be non-negative and sum to 1 for each sample, but sample "
            f"{np.flatnonzero(~good)[0]} is otherwise: apply a softmax if these are logits."
        )
    return values
