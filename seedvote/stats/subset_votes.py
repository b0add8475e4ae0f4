"""Whether the votes of many committees of the same members are right, without deciding each of them anew.

A committee gives each class the sum of its members' points, so that all committees are one matrix product. What makes
it quick is what is left out of it: a rival class can only beat the true one in a committee of k if it does in that of
the k members who favour it most.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from seedvote.stats.arrays import Booleans, Floats, Integers

TIE_TOLERANCE = 1e-12  # of a mean probability; what lies closer together is tied
TIES = ("probability", "lowest", "abstain")
_CHUNK_ELEMENTS = 2**20  # 8 MiB of float64 for each temporary array, whatever the number of samples
_SLACK = 1e-9
_THREADS = 2

Singles = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Rivals:
    """Pairs of a sample and a class that beats its true class in some committee.

    samples: ``[P]``, ascending. gains: ``[P, M]``, how much more each member gives the rival than the true class.
    limits: ``[P]``, how far the rival must be ahead for each member of a committee. largest: ``[P]``, size of the
    largest committees in which the rival can be ahead. certain: ``[S]``, the size from which on some rival is ahead in
    all of them. magnitude: no gain is larger.
    """

    samples: Integers
    gains: Floats
    limits: Floats
    largest: Integers
    certain: Integers
    magnitude: float


def subsets_right(
    committees: Iterable[Integers],
    probabilities: NDArray[np.generic],
    true: Integers,
    *,
    labels: Integers | None = None,
    plurality: bool = False,
    tie: str = "probability",
) -> Booleans:
    """Whether the vote of each committee is right, ``[R, S]``.

    The vote is the mean probability, or with ``plurality`` the number of members who decide for a class. Classes within
    1e-12 are tied. tie: of a plurality ``probability`` has the highest mean probability of the committee win,
    ``lowest`` and all other ties the lowest index; with ``abstain`` no tie is right.

    committees: positions of the members of each, in R rows of any length. probabilities: ``[M, S, C]``. true: ``[S]``.
    labels: ``[M, S]``, the members' decisions, default the lowest class of the highest probability.
    """
    members, samples, classes = probabilities.shape
    rows = committee_rows(committees, members)
    labels = probabilities.argmax(axis=2) if labels is None else labels
    right = np.repeat(labels[:1] == true, len(rows), axis=0)
    # Where all members agree there is nothing to count, but a member's own tie may count against it.
    open_ = (labels != labels[0]).any(axis=0) if plurality or tie != "abstain" else np.ones(samples, dtype=np.bool_)
    unsettled = np.flatnonzero(open_)
    step = max(1, _CHUNK_ELEMENTS // (members * classes))
    margin = TIE_TOLERANCE
    if plurality:
        margin = TIE_TOLERANCE / (2 * members) if tie == "probability" else 0.5 / members

    def decide(start: int) -> None:
        piece = unsettled[start : start + step]
        points = probabilities[:, piece].astype(np.float64)
        if plurality:
            points = _ballots(labels[:, piece], points, tie)
        right[:, piece] = _wins(rows, points, true[piece], margin, tie != "abstain").T

    # Threads of the linear algebra would wait for one another, and burn time while they wait.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(decide, range(0, len(unsettled), step)))
    return right


def _ballots(labels: Integers, probabilities: Floats, tie: str) -> Floats:
    """A point for the member's own class, and too little to outweigh a point for its probabilities, ``[M, S, C]``.

    A class that nobody decided for cannot win and gets a negative number.
    """
    given = labels[:, :, np.newaxis] == np.arange(probabilities.shape[2])
    points = probabilities / (2 * len(labels)) if tie == "probability" else np.zeros(probabilities.shape)
    points += given
    points[:, ~given.any(axis=0)] = -1.0
    return points


def _wins(rows: Floats, points: Floats, true: Integers, margin: float, lowest_wins: bool) -> Booleans:
    """Whether the true class has the largest sum of points in each committee, ``[S, R]``.

    margin: for each member, below it a difference is a tie, which the lower index wins, or nobody.
    """
    rivals = _rivals(points, true, margin, lowest_wins)
    right = np.empty((len(true), len(rows)), dtype=np.bool_)
    sizes = rows.sum(axis=1).astype(np.int64)
    single = np.column_stack([rivals.gains, -rivals.limits]).astype(np.float32)
    for size in np.unique(sizes).tolist():
        chosen = np.flatnonzero(sizes == size)
        settled = rivals.certain <= size
        lost = np.repeat(settled[:, np.newaxis], len(chosen), axis=1)
        pairs = np.flatnonzero((rivals.largest >= size) & ~settled[rivals.samples])
        if len(pairs):
            ahead = _ahead(rivals, single, pairs, rows[chosen], size)
            samples, starts = np.unique(rivals.samples[pairs], return_index=True)
            lost[samples] = np.logical_or.reduceat(ahead, starts, axis=0)
        right[:, chosen] = ~lost
    return right


def _ahead(rivals: _Rivals, single: Singles, pairs: Integers, rows: Floats, size: int) -> Booleans:
    """Whether each rival is ahead in each committee, ``[P, R]``: in float32, and in float64 where that may be wrong.

    A sum of k terms in float32 is off by at most ``(k + 2) u`` times the sum of their magnitudes, conversion included,
    with ``u = 2^-24`` (Higham, Accuracy and Stability of Numerical Algorithms, 2002, chapter 3).
    """
    distances = single[pairs] @ np.column_stack([rows, rows.sum(axis=1)]).T.astype(np.float32)
    doubt = np.float32((size + 4) * (size + 1) * 2**-24 * rivals.magnitude)
    ahead = distances > doubt
    unsure, committees = np.divmod(np.flatnonzero((distances >= -doubt) ^ ahead), len(rows))
    sums = np.einsum("nm,nm->n", rivals.gains[pairs[unsure]], rows[committees])
    ahead[unsure, committees] = sums > size * rivals.limits[pairs[unsure]]
    return np.asarray(ahead)


def _rivals(points: Floats, true: Integers, margin: float, lowest_wins: bool) -> _Rivals:
    members, samples = points.shape[:2]
    slack = margin * members + _SLACK  # how far behind a rival still counts, which covers ties and rounding
    places = np.arange(samples)
    gains = points - points[:, places, true][:, :, np.newaxis]
    top = gains.sum(axis=0).argmax(axis=1)
    behind = gains < gains[:, places, top][:, :, np.newaxis]  # than a class that is then ahead of it everywhere
    possible = np.asarray((gains > -slack).any(axis=0) & ~behind.all(axis=0))
    possible[places, true] = False
    pairs, own = np.nonzero(possible)
    kept = np.ascontiguousarray(gains[:, pairs, own].T)
    ordered = np.sort(kept, axis=1)
    worst, best = ordered.cumsum(axis=1), ordered[:, ::-1].cumsum(axis=1)  # of the k who favour the rival least, most
    sure = members + 1 - (worst > slack).sum(axis=1)
    certain = np.full(samples, members + 1)
    np.minimum.at(certain, pairs, sure)
    limits = margin * np.where((own < true[pairs]) | (not lowest_wins), -1.0, 1.0)
    magnitude = float(np.abs(ordered[:, [0, -1]]).max(initial=1.0))
    return _Rivals(pairs, kept, limits, (best >= -slack).sum(axis=1), certain, magnitude)


def committee_rows(committees: Iterable[Integers], members: int) -> Floats:
    """Each committee's members as ones among zeros, ``[R, M]``."""
    chosen = list(committees)
    rows = np.zeros((len(chosen), members))
    for row, positions in zip(rows, chosen, strict=True):
        row[positions] = 1
    return rows
