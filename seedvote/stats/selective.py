"""Selective prediction: answering only where the vote is sure, and what that does to the errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr

from seedvote.stats.arrays import (
    Floats,
    checked_decisions,
    checked_members,
    checked_probabilities,
    checked_shares,
    member_chunks,
)

_DECIMALS = 12  # so that rounding errors of equal scores cannot put one sample before another


@dataclass(frozen=True, eq=False)
class ConfidenceScores:
    """Four ways to be sure of a vote, each ``[S]``, higher is surer."""

    max_probability: Floats
    negative_entropy: Floats
    negative_mutual_information: Floats
    agreement: Floats


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Errors among the surest samples.

    coverage: ``[S]``, fraction of samples answered, ``n / S``. risk: ``[S]``, fraction of those that are wrong.
    area: mean risk (AURC). excess_area: area minus that of the best possible order of the same errors (E-AURC).
    """

    coverage: Floats
    risk: Floats
    area: float
    excess_area: float


def confidence_scores(
    probabilities: ArrayLike, pooled: ArrayLike | None = None, labels: ArrayLike | None = None
) -> ConfidenceScores:
    """Confidence of a vote on each sample, from the members' probabilities ``[M, S, C]`` and the vote.

    With ``p`` the vote's probabilities: ``max_c p_c``; ``-H(p)``; ``-(H(mean_m p_m) - mean_m H(p_m))``, the negative
    mutual information between the decision and the member, whatever the vote (Depeweg et al., ICML 2018), in nats; and
    the share of members whose own arg max is the vote's decision. Rounded to 12 decimals, so that equal scores are
    equal.

    pooled: ``p``, ``[S, C]``, default the mean of the members', the soft vote. labels: ``[S]``, the vote's decisions,
    -1 where it abstained; default the arg max of ``p``.
    Raises ``ValueError`` for wrong shapes and rows that are no probabilities.
    """
    values = checked_members(probabilities)
    samples = values.shape[1]
    own = None if pooled is None else checked_probabilities(pooled)
    if own is not None and own.shape != values.shape[1:]:
        raise ValueError(f"pooled must have the shape {list(values.shape[1:])} of one member, not {list(own.shape)}.")
    decisions = None if labels is None else checked_decisions("labels", labels, samples)
    scores = np.empty((4, samples))
    for piece, chunk in member_chunks(values):
        mean = chunk.mean(axis=0)
        vote = mean if own is None else own[piece]
        decided = vote.argmax(axis=1) if decisions is None else decisions[piece]
        scores[0, piece] = vote.max(axis=1)
        scores[1, piece] = -entr(vote).sum(axis=1)
        scores[2, piece] = np.minimum(entr(chunk).sum(axis=2).mean(axis=0) - entr(mean).sum(axis=1), 0.0)
        scores[3, piece] = (chunk.argmax(axis=2) == decided).mean(axis=0)
    return ConfidenceScores(*(np.round(scores, _DECIMALS) + 0.0))


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Risk against coverage, and the area below (Geifman and El-Yaniv, NIPS 2017; Geifman et al., ICLR 2019).

    ``risk(n) = errors among the n surest / n``, ``area = mean_n risk(n)``. Samples of equal confidence come in no
    order: their errors are spread evenly over them, which is the expectation over all orders.
    confidence: ``[S]``, finite, higher is surer. correct: ``[S]``. Raises ``ValueError`` for anything else.
    """
    scores = np.asarray(confidence, dtype=np.float64)
    if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
        raise ValueError(f"confidence must be finite numbers of shape [samples], but has shape {list(scores.shape)}.")
    errors = 1 - checked_shares("correct", correct, scores.shape)
    _, groups, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    rates = np.bincount(groups.reshape(-1), weights=errors) / counts
    numbers = np.arange(1, len(scores) + 1)
    risk = np.cumsum(np.repeat(rates, counts)) / numbers
    best = np.cumsum(np.sort(errors)) / numbers
    # The two means may cross by rounding where the order is already the best.
    return RiskCoverage(numbers / len(scores), risk, float(risk.mean()), max(float((risk - best).mean()), 0.0))


def accuracy_at_coverage(curve: RiskCoverage, coverage: float) -> float:
    """Accuracy on the surest ``ceil(coverage * S)`` samples, coverage above 0 and not above 1.

    Raises ``ValueError`` for a coverage outside.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie above 0 and not above 1, but it is {coverage}.")
    # 0.9 * 10 is 9.000000000000002 for some pairs: a hair above a whole number is that number.
    number = max(1, int(np.ceil(coverage * len(curve.risk) - 1e-9)))
    return float(1 - curve.risk[number - 1])
