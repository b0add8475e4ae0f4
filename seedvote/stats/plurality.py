"""The plurality vote in expectation over all committees of k members, without drawing any.

A committee of k out of M takes from each class's votes a multivariate hypergeometric number. All that matters for a
sample is how many of the M members voted for the true class and for each other one, so that samples with the same
counts share one computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from seedvote.stats.arrays import Floats, Integers, checked_labels, checked_targets
from seedvote.stats.committees import Curve, checked_sizes

MOST_MEMBERS = 1000  # the number of subsets of 1030 no longer fits a float
_PATTERNS = 4096
_SAMPLES = 4096


def plurality_correct(labels: ArrayLike, targets: ArrayLike) -> Floats:
    """How right the plurality of all members is on each sample, ``[S]``: a tie of n classes is split evenly, 1/n each.

    labels: ``[M, S]``, the members' decisions, -1 for none. targets: ``[S]``. Raises ``ValueError`` for wrong shapes.
    """
    true = checked_targets(targets)
    decisions = checked_labels(labels, true)
    return np.concatenate([_shares(counts, true[piece]) for piece, counts in _vote_counts(decisions, true)])


def plurality_correct_of_each(labels: ArrayLike, targets: ArrayLike, committees: ArrayLike) -> Floats:
    """``plurality_correct`` of each committee of members, ``[R, S]``.

    labels: ``[M, S]``. targets: ``[S]``. committees: ``[R, h]``, positions of members. Raises ``ValueError`` for wrong
    shapes.
    """
    true = checked_targets(targets)
    decisions = checked_labels(labels, true)
    chosen = np.asarray(committees, dtype=np.int64)
    return np.array([plurality_correct(decisions[row], true) for row in chosen]).reshape(len(chosen), len(true))


def plurality_curve(labels: ArrayLike, targets: ArrayLike, *, sizes: Sequence[int] | None = None) -> Curve:
    """Expected accuracy of the plurality of k members over all ``C(M, k)`` committees, ties split evenly: exact.

    With ``n`` votes for the true class and ``n_j`` for the others, the number of committees in which the true class
    gets v votes, r others get v too and the rest fewer is the coefficient of ``x^(k - v) y^r`` in
    ``C(n, v) prod_j (sum_{u < v} C(n_j, u) x^u + y C(n_j, v) x^v)``. Such a tie is won in one of ``r + 1`` cases, and
    ``1 / (r + 1) = int_0^1 y^r dy``, for which Gauss-Legendre nodes are exact.

    labels: ``[M, S]``, the members' decisions, -1 for none. targets: ``[S]``. sizes: default ``committee_sizes(M)``.
    Raises ``ValueError`` for wrong shapes, sizes outside 1 .. M and more than 1000 members.
    """
    true = checked_targets(targets)
    decisions = checked_labels(labels, true)
    members = len(decisions)
    if members > MOST_MEMBERS:
        raise ValueError(
            f"Exact counting takes at most {MOST_MEMBERS} members, but there are {members}: use subset_curve."
        )
    wanted = checked_sizes(sizes, members)
    patterns, places = _patterns(decisions, true)
    expected = np.empty((len(wanted), len(patterns)))
    for start in range(0, len(patterns), _PATTERNS):
        part = patterns[start : start + _PATTERNS]
        expected[:, start : start + len(part)] = _expected(part[:, 0], part[:, 1:], members, wanted)
    per_sample = expected[:, places]
    return Curve(
        members,
        np.array(wanted, dtype=np.int64),
        per_sample.mean(axis=1),
        (None,) * len(wanted),
        tuple(comb(members, size) for size in wanted),
        True,
        per_sample,
    )


def _vote_counts(decisions: Integers, true: Integers) -> list[tuple[slice, Integers]]:
    """Votes for each class, ``[S, C + 1]``, in pieces; the last column holds those of members without a decision."""
    classes = int(max(decisions.max(), true.max())) + 1
    step = max(1, min(_SAMPLES, 2**22 // classes))
    pieces = []
    for start in range(0, len(true), step):
        votes = decisions[:, start : start + step]
        rows = np.arange(votes.shape[1])
        counts = np.zeros((votes.shape[1], classes + 1), dtype=np.int64)
        for own in votes:
            counts[rows, own] += 1
        pieces.append((slice(start, start + votes.shape[1]), counts))
    return pieces


def _shares(counts: Integers, true: Integers) -> Floats:
    votes = counts[:, :-1]
    top = votes.max(axis=1)
    tied = (votes == top[:, np.newaxis]).sum(axis=1)
    won = (votes[np.arange(len(true)), true] == top) & (top > 0)
    return np.where(won, 1 / tied, 0.0)


def _patterns(decisions: Integers, true: Integers) -> tuple[Integers, Integers]:
    """Distinct rows (votes for the true class, votes for the others in falling order), and each sample's row."""
    rows = []
    for piece, counts in _vote_counts(decisions, true):
        at = (np.arange(len(counts)), true[piece])
        own = counts[at]
        counts[at] = 0
        others = -np.sort(-counts[:, :-1], axis=1)[:, : len(decisions)]
        width = min(len(decisions), counts.shape[1] - 1)
        rows.append(np.column_stack([own, others[:, :width]]))
    patterns, places = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    return patterns, places.reshape(-1)


def _expected(own: Integers, others: Integers, members: int, sizes: Sequence[int]) -> Floats:
    """Probability ``[K, P]`` that the true class wins in a random committee, for each pattern of votes."""
    binomials = _binomials(members)
    result = np.zeros((len(sizes), len(own)))
    for votes in range(1, int(own.max()) + 1):
        rivals = (others >= votes).sum(axis=1)
        for count in np.unique(rivals[own >= votes]):
            rows = np.flatnonzero((own >= votes) & (rivals == count))
            held = others[rows, :count]
            ways = _ways(held, votes, binomials)  # [P, X]: X votes of the committee go to rivals
            free = members - own[rows] - held.sum(axis=1)
            for place, size in enumerate(sizes):
                reached = np.arange(min(ways.shape[1], size - votes + 1))
                if len(reached):
                    filled = ways[:, reached] * binomials[free[:, np.newaxis], size - votes - reached]
                    result[place, rows] += binomials[own[rows], votes] * filled.sum(axis=1) / comb(members, size)
    return result


def _ways(held: Integers, votes: int, binomials: Floats) -> Floats:
    """Ways for rivals who hold at least ``votes`` to get at most that many, by votes taken, ties discounted."""
    patterns, rivals = held.shape
    nodes, weights = _gauss_legendre(rivals // 2 + 1)
    shares = (nodes + 1) / 2
    ways = np.ones((patterns, len(nodes), 1))
    for rival in range(rivals):
        factors = binomials[held[:, rival], : votes + 1]
        wider = np.zeros((patterns, len(nodes), ways.shape[2] + votes))
        for taken in range(votes):
            wider[:, :, taken : taken + ways.shape[2]] += factors[:, taken, np.newaxis, np.newaxis] * ways
        tied = factors[:, votes, np.newaxis, np.newaxis] * shares[:, np.newaxis]
        wider[:, :, votes:] += tied * ways
        ways = wider
    result: Floats = np.einsum("pnx,n->px", ways, weights / 2)
    return result


@cache
def _binomials(members: int) -> Floats:
    """``C(n, u)`` for n and u up to ``members``."""
    return np.array([[comb(n, u) for u in range(members + 1)] for n in range(members + 1)], dtype=np.float64)


@cache
def _gauss_legendre(count: int) -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes, weights
