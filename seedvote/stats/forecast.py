"""What a larger committee would reach: the accuracy curve, carried on by the law a - b / k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import t as student

from seedvote.stats.arrays import Floats, Integers, checked_labels, checked_rows, checked_targets
from seedvote.stats.committees import Curve, Grid, committee_sizes, curve_of, subset_grid
from seedvote.stats.intervals import Interval
from seedvote.stats.plurality import plurality_curve
from seedvote.stats.procedure import CrossedVariance, crossed_variance
from seedvote.stats.subset_votes import subsets_right

SMALLEST_COMMITTEE = 4
GROUPS = 10
_SHARE_OF_FREEDOM = 0.4


@dataclass(frozen=True)
class Forecast:
    """Expected accuracy ``limit - slope / k`` of committees of the given sizes, in 0 .. 1.

    accuracy, intervals: one for each size, cut off at 0 and 1; limit is not. All but ``sizes`` are ``None``, with a
    reason, where there are too few members.
    """

    sizes: tuple[int, ...]
    accuracy: tuple[float, ...] | None
    intervals: tuple[Interval, ...] | None
    limit: float | None
    slope: float | None
    reason: str | None


def forecast(
    curve: Curve, without: Sequence[Curve] = (), *, sizes: Sequence[int] | None = None, level: float = 0.95
) -> Forecast:
    """Extrapolate the accuracy curve to committees larger than there are members for.

    ``acc(k) = a - b / k``, the error of an average of k classifiers (Tumer and Ghosh, Pattern Recognition 29, 1996;
    for votes Cannings and Samworth, JRSS B 79, 2017), fitted to ``k >= 2`` by least squares with weights k, as the law
    holds for large k. The fit is linear in the curve, so that each example has a forecast of its own, and the
    intervals come from ``crossed_variance``: over examples and, by the jackknife, over seeds. They are t intervals of
    ``logit(accuracy)``, by the delta method, as accuracies near 1 are skewed (Agresti, Categorical Data Analysis, 2002,
    section 3.1), and hold as far as the law does. The variance over seeds counts with 0.4 (M - 1) degrees of freedom,
    as it scatters like one with so few (docs/statistics.md).

    without: curves of the same vote with each seed, or each of several groups of as many seeds, left out; without
    them the intervals are over random examples only. sizes: default 2M and 4M. Raises ``ValueError`` for
    curves in ``without`` that do not belong together and for sizes below 1.
    """
    wanted = (2 * curve.members, 4 * curve.members) if sizes is None else tuple(int(size) for size in sizes)
    if any(size < 1 for size in wanted):
        raise ValueError(f"sizes of committees are at least 1, but they are {list(wanted)}.")
    kept = {each.members for each in without}
    if len(without) == 1 or len(kept) > 1 or any(members >= curve.members for members in kept):
        raise ValueError(
            f"without must hold no curve, or several of as many members each and of fewer than {curve.members}, but it "
            f"holds {len(without)} of {sorted(kept)} members: take them from soft_curves_without."
        )
    fitted = [each for each in (curve, *without) if (each.sizes >= 2).sum() < 2]
    if curve.members < SMALLEST_COMMITTEE or fitted or curve.per_sample.shape[1] < 2:
        reason = f"at least {SMALLEST_COMMITTEE} members, two sizes from 2 up and two samples are needed to fit a curve"
        return Forecast(wanted, None, None, None, None, reason)
    fit = _fit(curve.sizes)
    limit, negative_slope = fit @ curve.accuracy
    values, intervals = [], []
    for size in wanted:
        per_sample = _per_sample(curve, size)
        value = float(per_sample.mean())
        parts = np.stack([_per_sample(each, size) for each in without]) if without else None
        value = min(max(value, 0.0), 1.0)
        values.append(value)
        intervals.append(_interval(value, per_sample, parts, curve.members, max(kept, default=0), level))
    return Forecast(wanted, tuple(values), tuple(intervals), float(limit), float(-negative_slope), None)


def plurality_curves_without(labels: ArrayLike, targets: ArrayLike) -> tuple[Curve, ...]:
    """``plurality_curve`` without each member, or without each of ten groups where there are more than ten.

    labels: ``[M, S]``. targets: ``[S]``. Empty for fewer than 4 members. Raises ``ValueError`` for wrong shapes.
    """
    decisions = checked_labels(labels, checked_targets(targets))
    return tuple(
        plurality_curve(decisions[kept], targets, sizes=_fitted_sizes(len(kept))) for kept in _without(len(decisions))
    )


def soft_curves_without(
    probabilities: ArrayLike, targets: ArrayLike, *, subsets: int = 30, seed: int = 0
) -> tuple[Curve, ...]:
    """``soft_curve`` without each member, or without each of ten groups where there are more than ten.

    probabilities: ``[M, S, C]``. targets: ``[S]``. Empty for fewer than 4 members. Raises ``ValueError`` for wrong
    shapes and rows that are no probabilities.
    """
    true = checked_targets(targets)
    values = checked_rows(probabilities, true)
    grids = grids_without(len(values), subsets=subsets, seed=seed)
    if not grids:
        return ()
    right = subsets_right([row for grid in grids for row in grid.committees], values, true)
    parts = np.split(right, np.cumsum([len(grid.committees) for grid in grids])[:-1])
    return tuple(curve_of(grid, part) for grid, part in zip(grids, parts, strict=True))


def grids_without(members: int, *, subsets: int = 30, seed: int = 0) -> tuple[Grid, ...]:
    """The committees behind the curves without each member, or each of ten groups; none for fewer than 4 members."""
    return tuple(subset_grid(kept, _fitted_sizes(len(kept)), subsets, seed) for kept in _without(members))


def _fitted_sizes(members: int) -> list[int]:
    """Sizes for the curve of fewer seeds; where there are many, a few are enough to fit two numbers."""
    return [size for size in committee_sizes(members, limit=10 if members <= 2 * GROUPS else 5) if size >= 2]


def _without(members: int) -> list[Integers]:
    if members < SMALLEST_COMMITTEE:
        return []
    groups = min(members, GROUPS)
    # As many leave each time, or the replicates would not have one scale; a few members may never leave.
    leaving = [np.arange(members // groups) + group * members // groups for group in range(groups)]
    return [np.delete(np.arange(members), positions) for positions in leaving]


def _fit(sizes: Integers) -> Floats:
    """The matrix ``[2, K]`` that takes a curve to ``(a, -b)``; columns of sizes below 2 are zero."""
    weights = np.where(sizes >= 2, sizes, 0).astype(np.float64)
    design = np.column_stack([np.ones(len(sizes)), 1 / sizes])
    return np.asarray(np.linalg.solve((design.T * weights) @ design, design.T * weights), dtype=np.float64)


def _per_sample(curve: Curve, size: int) -> Floats:
    values: Floats = np.array([1.0, 1 / size]) @ _fit(curve.sizes) @ curve.per_sample
    return values


def _interval(
    value: float, per_sample: Floats, without: Floats | None, members: int, kept: int, level: float
) -> Interval:
    crossed, freedom = CrossedVariance(0.0, float(per_sample.var(ddof=1)) / len(per_sample)), len(per_sample) - 1.0
    if without is not None:
        crossed = crossed_variance(per_sample, without, members, kept)
        freedom = crossed.degrees_of_freedom(_SHARE_OF_FREEDOM * (len(without) - 1), freedom)
    if crossed.total <= 0:
        return Interval(None, None, level, "neither examples nor seeds show any spread of the forecast")
    edge = 1 / (2 * len(per_sample))  # as close to 0 and 1 as an accuracy can be told from them
    inside = min(max(value, edge), 1 - edge)
    half = float(student.ppf((1 + level) / 2, freedom)) * crossed.total**0.5 / (inside * (1 - inside))
    middle = float(logit(inside))
    return Interval(min(float(expit(middle - half)), value), max(float(expit(middle + half)), value), level)
