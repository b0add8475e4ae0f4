"""The primary votes of some of the members: of random halves, and of committees of every size.

Soft and majority only: votes of many committees are then one matrix product, which is quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from seedvote import stats
from seedvote.comparison.records import Plan
from seedvote.stats import Curve, Forecast
from seedvote.voting import ABSTAINED, TIE_TOLERANCE

PRIMARY_RULES = ("soft", "majority")

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Probabilities = NDArray[np.floating]

# Random committees are drawn until about so many products have been summed: some seconds on one core.
_CURVE_WORK = 1e10
_MOST_COMMITTEES = 200
_SMALLEST_FORECAST, _GROUPS = 4, 10
_CHUNK_ELEMENTS = 2**22  # 32 MiB of float64 for each temporary array


def committees_correct(
    plan: Plan, probabilities: Probabilities, labels: Integers, targets: Integers, committees: Iterable[Integers]
) -> NDArray[np.bool_]:
    """Whether the vote of each committee is right, ``[R, S]``, as ``seedvote.voting`` would decide it.

    probabilities: ``[M, S, C]``. labels: ``[M, S]``, the members' decisions. targets: ``[S]``. committees: positions of
    the members of each, in R rows of any length.
    """
    members, _, classes = probabilities.shape
    rows = list(committees)
    chosen = np.zeros((len(rows), members))
    for row, positions in zip(chosen, rows, strict=True):
        row[positions] = 1 / len(positions)
    # Where all members agree there is nothing to count.
    right = np.repeat(labels[:1] == targets, len(rows), axis=0)
    unsettled = np.flatnonzero((labels != labels[0]).any(axis=0))
    step = max(1, _CHUNK_ELEMENTS // (max(len(rows), members) * classes))
    for start in range(0, len(unsettled), step):
        piece = unsettled[start : start + step]
        shape = (len(rows), len(piece), classes)
        means = (chosen @ probabilities[:, piece].astype(np.float64).reshape(members, -1)).reshape(shape)
        shares = means
        if plan.rule == "majority":
            ballots = (labels[:, piece, np.newaxis] == np.arange(classes)).astype(np.float64)
            shares = (chosen @ ballots.reshape(members, -1)).reshape(shape)
        right[:, piece] = _decided(shares, means, plan.tie) == targets[piece]
    return right


def curve(plan: Plan, probabilities: Probabilities, labels: Integers, targets: Integers) -> Curve:
    """Accuracy of the primary vote against committee size, all committees of a size or a random part of them."""
    subsets = affordable(labels, probabilities.shape, 1)
    if plan.rule == "soft":
        return stats.soft_curve(probabilities, targets, subsets=subsets, seed=plan.resampling_seed)
    sizes = stats.committee_sizes(len(labels))
    return _majority_curves(plan, probabilities, labels, targets, [np.arange(len(labels))], (sizes, subsets))[0]


def forecast(plan: Plan, found: Curve, probabilities: Probabilities, labels: Integers, targets: Integers) -> Forecast:
    """What twice and four times as many members would reach."""
    members = len(labels)
    subsets = max(5, affordable(labels, probabilities.shape, 10) // 4)
    if plan.rule == "soft":
        without = stats.soft_curves_without(probabilities, targets, subsets=subsets, seed=plan.resampling_seed)
    elif members < _SMALLEST_FORECAST:
        without = ()
    else:
        groups = min(members, _GROUPS)
        leaving = [np.arange(members // groups) + group * members // groups for group in range(groups)]
        kept = [np.delete(np.arange(members), positions) for positions in leaving]
        sizes = [size for size in stats.committee_sizes(len(kept[0]), limit=5 if members > 16 else 16) if size >= 2]
        without = _majority_curves(plan, probabilities, labels, targets, kept, (sizes, subsets))
    return stats.forecast(found, without, level=plan.level)


def _majority_curves(
    plan: Plan,
    probabilities: Probabilities,
    labels: Integers,
    targets: Integers,
    groups: Sequence[Integers],
    grid: tuple[Sequence[int], int],
) -> tuple[Curve, ...]:
    """The curve of each group of the members, for the sizes of a grid and at most so many committees of each."""
    sizes, limit = grid
    sets = []
    for group in groups:
        generator = np.random.default_rng(plan.resampling_seed)
        sets += [group[_committees(len(group), size, limit, generator)] for size in sizes]
    # All in one go: each pass over the probabilities costs more than the votes of some committees.
    right = committees_correct(plan, probabilities, labels, targets, [row for rows in sets for row in rows])
    parts = np.split(right, np.cumsum([len(rows) for rows in sets])[:-1])
    per_group = len(sizes)
    return tuple(
        _curve(len(group), sizes, parts[place * per_group : (place + 1) * per_group])
        for place, group in enumerate(groups)
    )


def _curve(members: int, sizes: Sequence[int], parts: Sequence[NDArray[np.bool_]]) -> Curve:
    """The curve of whether the committees of each size were right, ``[R, S]`` for each."""
    accuracies = [right.mean(axis=1) for right in parts]
    return Curve(
        members,
        np.array(sizes, dtype=np.int64),
        np.array([values.mean() for values in accuracies]),
        tuple(float(values.std(ddof=1)) if len(values) > 1 else None for values in accuracies),
        tuple(len(values) for values in accuracies),
        all(len(values) == comb(members, size) for values, size in zip(accuracies, sizes, strict=True)),
        np.stack([right.mean(axis=0) for right in parts]),
    )


def _committees(members: int, size: int, limit: int, generator: np.random.Generator) -> Integers:
    """All committees of a size, or ``limit`` distinct ones at random, ``[R, size]``."""
    if comb(members, size) <= limit:
        return np.array(list(combinations(range(members), size)), dtype=np.int64)
    seen: dict[tuple[int, ...], None] = {}
    while len(seen) < limit:
        seen[tuple(sorted(generator.permutation(members)[:size].tolist()))] = None
    return np.array(list(seen), dtype=np.int64)


def _decided(shares: Floats, means: Floats, tie: str) -> Integers:
    """Decide as ``seedvote.voting`` does: shares and mean probabilities ``[R, S, C]`` to labels ``[R, S]``."""
    candidates = shares >= shares.max(axis=2, keepdims=True) - TIE_TOLERANCE
    tied = candidates.sum(axis=2) > 1
    if tie == "probability" and tied.any():
        rivals = np.where(candidates[tied], means[tied], -1.0)
        candidates[tied] = rivals >= rivals.max(axis=1, keepdims=True) - TIE_TOLERANCE
    decided: Integers = candidates.argmax(axis=2).astype(np.int64)
    if tie == "abstain":
        decided[tied] = ABSTAINED
    return decided


def affordable(labels: Integers, shape: tuple[int, ...], curves: int = 1) -> int:
    """How many random committees of each size can be looked at in some seconds; those of one mind cost nothing.

    labels: ``[M, S]``. shape: ``[M, S, C]``. curves: how many curves are wanted.
    """
    members, _, classes = shape
    unsettled = int((labels != labels[0]).any(axis=0).sum())
    work = curves * len(stats.committee_sizes(members)) * max(1, unsettled) * classes * members
    return int(min(_MOST_COMMITTEES, max(10, _CURVE_WORK // work)))
