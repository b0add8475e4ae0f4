"""The primary votes of some of the members: of random halves, and of committees of every size.

Soft and majority only: votes of many committees are then one matrix product, which is quick.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seedvote import stats
from seedvote.comparison.records import Plan
from seedvote.stats import Curve

PRIMARY_RULES = ("soft", "majority")

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Probabilities = NDArray[np.floating]


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


def committees(plan: Plan, probabilities: Probabilities, labels: Integers, targets: Integers) -> Committees:
    """Let all the committees vote in one pass, as ``seedvote.voting`` would have them.

    probabilities: ``[M, S, C]``. labels: ``[M, S]``, the members' decisions. targets: ``[S]``.
    """
    members, seed = len(labels), plan.resampling_seed
    halves = stats.half_committees(members, seed=seed)
    grids = (stats.subset_grid(np.arange(members), None, seed=seed), *stats.grids_without(members, seed=seed))
    rows = [*halves, *(row for grid in grids for row in grid.committees)]
    right = _right(plan, probabilities, labels, targets, rows)
    ends = np.cumsum([len(halves), *(len(grid.committees) for grid in grids)])[:-1]
    halves_right, *parts = np.split(right, ends)
    found, *without = (stats.curve_of(grid, part) for grid, part in zip(grids, parts, strict=True))
    return Committees(halves, halves_right, found, tuple(without))


def curve(plan: Plan, probabilities: Probabilities, labels: Integers, targets: Integers) -> Curve:
    """Accuracy of the primary vote against committee size, all committees of a size or 200 random ones."""
    grid = stats.subset_grid(np.arange(len(labels)), None, seed=plan.resampling_seed)
    return stats.curve_of(grid, _right(plan, probabilities, labels, targets, grid.committees))


def _right(
    plan: Plan, probabilities: Probabilities, labels: Integers, targets: Integers, rows: list[Integers]
) -> Booleans:
    plurality = plan.rule == "majority"
    return stats.subsets_right(rows, probabilities, targets, labels=labels, plurality=plurality, tie=plan.tie)
