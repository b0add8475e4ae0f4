"""Each member by itself on one split: what it decides, how sure it is, and how that scores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seedvote import stats

CALIBRATION_BINS = 15
_THREADS = 2
_DOUBLE_ELEMENTS = 2**27  # 1 GiB of float64; larger comparisons keep probabilities in float32

Integers = NDArray[np.int64]
Logits = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Alone:
    """The members on one split, each for itself.

    logits, probabilities: ``[M, S, C]``. labels: ``[M, S]``, their decisions. targets: ``[S]``. scores: of each.
    """

    logits: Logits
    probabilities: NDArray[np.floating]
    labels: Integers
    targets: Integers
    scores: tuple[stats.Scores, ...]


def alone(logits: Logits, targets: Integers) -> Alone:
    """Score each member; logits ``[M, S, C]``, targets ``[S]``."""
    kind = np.float64 if logits.size <= _DOUBLE_ELEMENTS else np.float32
    probabilities: NDArray[np.floating] = np.empty(logits.shape, kind)
    labels = np.empty(logits.shape[:2], dtype=np.int64)

    def fill(member: int) -> stats.Scores:
        values = probabilities[member] if kind is np.float64 else np.empty(logits.shape[1:])
        _softmax(logits[member], values)
        probabilities[member], labels[member] = values, logits[member].argmax(axis=1)
        return stats.score(probabilities[member], targets, bins=CALIBRATION_BINS)

    with ThreadPoolExecutor(_THREADS) as pool:
        scores = tuple(pool.map(fill, range(len(logits))))
    return Alone(logits, probabilities, labels, targets, scores)


def _softmax(logits: Logits, into: NDArray[np.floating]) -> None:
    """``scipy.special.softmax`` over the last axis, in place: fresh memory would take longer than the sums."""
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=into, dtype=np.float64)
    np.exp(into, out=into)
    into /= into.sum(axis=1, keepdims=True)
