"""The primary votes of some of the members: of random halves, and of committees of every size.

For soft and majority the votes of many committees are one matrix product, which is quick. By any other rule each
committee votes for itself, and fewer committees are asked where that would take long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from seedvote import stats, voting
from seedvote.chunks import chunks
from seedvote.comparison.alone import Alone
from seedvote.comparison.records import Plan
from seedvote.comparison.weights import stacked_weights
from seedvote.stats import SUBSETS, Curve

QUICK_RULES = ("soft", "majority")
# Whose scores order the classes and are no probabilities: a score of 0 says that nobody voted for a class.
NO_PROBABILITIES = {
    "majority": "majority counts votes: the share of members behind a class is no probability",
    "borda": "borda counts ranks: the points of a class are no probability",
}
_THREADS = 2
_FEWEST = 10
_SUBSETS_WITHOUT = 30
_AFFORDABLE = 2**27  # logits of all the committees of one size together, a few seconds of voting
_REFITTED = 50  # of a size where each committee has its weights fitted

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Weigh = Callable[[Integers], Floats]


@dataclass(frozen=True, eq=False)
class Committees:
    """Votes of parts of the members on test.

    halves: positions ``[R, h]`` of the members of random halves. halves_right: ``[R, S]``, whether their votes are
    right. curve: of all members. without: curves of most of them, for the forecast.
    """

    halves: Integers
    halves_right: Booleans
    curve: Curve
    without: tuple[Curve, ...]


def weighing(validation: Alone, weights: Floats | None) -> Weigh:
    """Return what gives the members of a committee their weights, if the rule has any: fitted anew for each.

    weights: of all members together, ``[M]``.
    """
    return (lambda chosen: np.ones(len(chosen))) if weights is None else stacked_weights(validation, weights)


def committees(plan: Plan, test: Alone, weigh: Weigh) -> Committees:
    """Let all the committees vote on test in one pass, as ``seedvote.voting`` would have them."""
    members, seed = len(test.labels), plan.resampling_seed
    subsets = _subsets(plan, test)
    halves = stats.half_committees(members, limit=subsets, seed=seed)
    fewer = max(2, _SUBSETS_WITHOUT * subsets // SUBSETS)
    grids = (
        stats.subset_grid(np.arange(members), None, subsets, seed),
        *stats.grids_without(members, subsets=fewer, seed=seed),
    )
    rows = [*halves, *(row for grid in grids for row in grid.committees)]
    right = _right(plan, test, rows, weigh)
    ends = np.cumsum([len(halves), *(len(grid.committees) for grid in grids)])[:-1]
    halves_right, *parts = np.split(right, ends)
    found, *without = (stats.curve_of(grid, part) for grid, part in zip(grids, parts, strict=True))
    return Committees(halves, halves_right, found, tuple(without))


def curve(plan: Plan, validation: Alone, weigh: Weigh) -> Curve:
    """Accuracy of the primary vote on validation against committee size, over all committees or up to 200 of a size."""
    subsets = _subsets(plan, validation)
    grid = stats.subset_grid(np.arange(len(validation.labels)), None, subsets, plan.resampling_seed)
    return stats.curve_of(grid, _right(plan, validation, grid.committees, weigh))


def _subsets(plan: Plan, split: Alone) -> int:
    """How many committees of a size to ask: 200, 50 where weights are fitted, or what can be afforded, 10 at least."""
    if plan.rule in QUICK_RULES:
        return SUBSETS
    members, _, classes = split.logits.shape
    each = int(members * len(_unsettled(plan, split)) * classes)
    most = _REFITTED if plan.rule == "weighted" else SUBSETS
    return min(most, max(_FEWEST, _AFFORDABLE // max(each, 1)))


def _unsettled(plan: Plan, split: Alone) -> Integers:
    """Samples on which committees may part: every rule follows members who all agree, unless a tie is to abstain."""
    if plan.tie == "abstain":
        return np.arange(len(split.targets))
    return np.flatnonzero((split.labels != split.labels[0]).any(axis=0))


def _right(plan: Plan, split: Alone, rows: Sequence[Integers], weigh: Weigh) -> Booleans:
    """Whether the vote of each committee is right, ``[R, S]``."""
    if plan.rule in QUICK_RULES:
        plurality = plan.rule == "majority"
        return stats.subsets_right(
            rows, split.probabilities, split.targets, labels=split.labels, plurality=plurality, tie=plan.tie
        )
    unsettled = _unsettled(plan, split)
    right = np.repeat(split.labels[:1] == split.targets, len(rows), axis=0)
    logits, targets = split.logits[:, unsettled], split.targets[unsettled]

    def decide(number: int) -> None:
        chosen = np.asarray(rows[number])
        weights = weigh(chosen)
        labels = [
            voting.vote_chunk(chunk, plan.rule, plan.tie, weights)[0]
            for chunk in chunks(logits, chosen, np.arange(len(targets)))
        ]
        right[number, unsettled] = np.concatenate(labels) == targets

    if len(unsettled):
        # Threads of the linear algebra would wait for one another, and burn time while they wait.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(decide, range(len(rows))))
    return right
