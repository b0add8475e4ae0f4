"""The vote as a procedure: a fresh committee against a fresh seed on fresh examples, everything random.

Two things limit what M members on S samples say about it: other seeds would have come out differently, and so would
other examples. Resampling seeds with replacement would put the same member into a committee twice, which votes worse
than distinct members do, so committees of half the members are drawn without replacement instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from seedvote.stats.arrays import (
    Booleans,
    Floats,
    Integers,
    checked_correct,
    checked_rows,
    checked_shares,
    checked_targets,
)
from seedvote.stats.committees import subsets_of
from seedvote.stats.intervals import Interval
from seedvote.stats.subset_votes import committee_rows, subsets_right

SMALLEST_COMMITTEE = 4
_REPLICATES = 200
_ROUNDING = 1e-18
_LARGEST_CUT = 0.15  # of the examples' part, which a negative estimate of the seeds' part may take away
_SHARE_OF_FREEDOM = 1 / 3


@dataclass(frozen=True)
class ProcedureDifference:
    """Expected accuracy of a fresh vote of ``committee_size`` minus that of a fresh seed, in 0 .. 1.

    interval, p_value: with seeds and examples both random. standard_error and degrees_of_freedom: of the t
    distribution behind them. seed_share: the part of the variance that other seeds would bring even on an endless test
    set, 0 .. 1. ``None`` with a reason where they are not defined.
    """

    difference: float
    interval: Interval
    p_value: float | None
    committee_size: int
    standard_error: float | None
    degrees_of_freedom: float | None
    seed_share: float | None
    reason: str | None


@dataclass(frozen=True)
class CrossedVariance:
    """Variance of a mean over examples that also depends on seeds.

    seeds: the part that other seeds would bring on an endless test set; it may be a little below 0. examples: the rest.
    """

    seeds: float
    examples: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.seeds + self.examples

    @property
    def seed_share(self) -> float:
        """Part of the total that is the seeds', 0 .. 1."""
        return max(self.seeds, 0.0) / self.total if self.total else 0.0

    def degrees_of_freedom(self, of_seeds: float, of_examples: float) -> float:
        """Of the total of two variances with so many each (Satterthwaite, Biometrics Bulletin 2, 1946)."""
        spread = max(self.seeds, 0.0) ** 2 / of_seeds + self.examples**2 / of_examples
        return self.total**2 / spread if spread else 1.0


def procedure_difference(
    correct: ArrayLike,
    vote_correct: ArrayLike,
    committees: ArrayLike,
    committees_correct: ArrayLike,
    *,
    level: float = 0.95,
) -> ProcedureDifference:
    """Is a vote of M seeds better than one seed, for seeds and examples that nobody has seen yet?

    The estimate, vote accuracy minus mean member accuracy, is unbiased for committees of the size M at hand. Its
    variance is that of ``crossed_variance``, the interval ``estimate -+ t SE`` with Satterthwaite's degrees of freedom:
    S - 1 for the examples and a third of M - 1 for the seeds, as the variance between seeds is itself estimated from
    votes that jump, and scatters like one with as few (docs/statistics.md).

    correct: ``[M, S]``. vote_correct: ``[S]``, truth values, or fractions where ties are split. committees: ``[R, h]``,
    positions of the members of each smaller committee, from ``half_committees``. committees_correct: ``[R, S]``, the
    same rule's vote of each of them. Not defined for fewer than 4 members. Raises ``ValueError`` for wrong shapes.
    """
    right = checked_correct(correct)
    members, samples = right.shape
    vote = checked_shares("vote_correct", vote_correct, (samples,))
    differences = vote - right.mean(axis=0)
    difference = float(differences.mean())
    reason = _not_defined(members, samples)
    if reason is None:
        chosen = _checked_committees(committees, members)
        votes = checked_shares("committees_correct", committees_correct, (len(chosen), samples))
        rows = committee_rows(chosen, members)
        gains = votes - rows @ right / chosen.shape[1]
        crossed = crossed_variance(differences, gains, members, chosen.shape[1])
        if crossed.total <= 0:
            reason = "neither examples nor seeds show any spread of the difference"
    if reason is not None:
        none = Interval(None, None, level, reason)
        return ProcedureDifference(difference, none, None, members, None, None, None, reason)
    error = crossed.total**0.5
    freedom = crossed.degrees_of_freedom(_SHARE_OF_FREEDOM * (min(members, len(chosen)) - 1), samples - 1)
    half = float(student.ppf((1 + level) / 2, freedom)) * error
    return ProcedureDifference(
        difference,
        Interval(difference - half, difference + half, level),
        2 * float(student.sf(abs(difference) / error, freedom)),
        members,
        error,
        freedom,
        crossed.seed_share,
        None,
    )


def crossed_variance(values: Floats, replicates: Floats, members: int, kept: int) -> CrossedVariance:
    """Variance of ``mean_s values_s`` where both the examples and the ``members`` seeds are random.

    ``Var = var_s(values) / S + V``. The first term covers new examples with these seeds, the seed-by-example part
    included (as for readers crossed with cases: Gallas, Academic Radiology 13, 2006). V is for new seeds on an endless
    test set: the delete-d jackknife (Shao and Wu, Annals of Statistics 17, 1989) of the covariance between two
    different examples, ``V = h / (M - h) * mean over pairs s != t of cov_r(replicates_rs, replicates_rt)``.
    Leaving out one seed at a time would not do: whether a vote is right jumps, so that the jackknife needs large steps.
    V may be negative (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4); to cut it
    off at 0 would widen the interval on average. It is cut off where it would take more than 15 % from the first term.

    values: ``[S]``. replicates: ``[R, S]``, the same from ``kept`` (h) of the members each. S must be at least 2.
    """
    samples = len(values)
    deviations = replicates - replicates.mean(axis=0)
    of_sums = float(np.square(deviations.sum(axis=1)).mean())
    of_each = float(np.vdot(deviations, deviations)) / len(replicates)
    raw = kept / (members - kept) * (of_sums - of_each) / (samples * (samples - 1))
    examples = float(values.var(ddof=1)) / samples
    # A rounding error of sums that cancel is no spread.
    seeds, examples = (part if abs(part) > _ROUNDING else 0.0 for part in (raw, examples))
    return CrossedVariance(max(seeds, -_LARGEST_CUT * examples), examples)


def half_committees(members: int, *, limit: int = _REPLICATES, seed: int = 0) -> Integers:
    """Committees ``[R, h]`` of ``h = max(3, floor(M / 2))`` members, for ``procedure_difference``.

    All of them where there are at most ``limit``, otherwise that many distinct ones at random; none, ``[0, M]``, for
    fewer than 4 members. Three at least, as a plurality of two is no better than one.
    """
    if members < SMALLEST_COMMITTEE:
        return np.empty((0, members), dtype=np.int64)
    return subsets_of(members, max(3, members // 2), limit, np.random.default_rng(seed))


def correct_of_each(vote_correct: Callable[[Integers], ArrayLike], committees: ArrayLike, samples: int) -> Floats:
    """Whether the vote of each committee is right, ``[R, S]``, for any rule.

    vote_correct: takes ascending positions of members and returns ``[S]``, whether their vote is right (or a fraction
    where ties are split). committees: ``[R, h]``. Raises ``ValueError`` for answers of another shape or outside 0 .. 1.
    """
    chosen = np.asarray(committees, dtype=np.int64)
    right = np.empty((len(chosen), samples))
    for row, positions in enumerate(chosen):
        right[row] = checked_shares("vote_correct", vote_correct(positions), (samples,))
    return right


def soft_correct_of_each(probabilities: ArrayLike, targets: ArrayLike, committees: ArrayLike) -> Booleans:
    """Whether the mean probability of each committee puts the true class first, ``[R, S]``; the lowest of tied ones.

    probabilities: ``[M, S, C]``. targets: ``[S]``. committees: ``[R, h]``. Raises ``ValueError`` for wrong shapes and
    for rows that are no probabilities.
    """
    true = checked_targets(targets)
    values = checked_rows(probabilities, true)
    chosen = np.asarray(committees, dtype=np.int64)
    return subsets_right(_checked_committees(chosen, len(values)) if len(chosen) else (), values, true)


def _checked_committees(committees: ArrayLike, members: int) -> Integers:
    chosen = np.asarray(committees)
    if chosen.ndim != 2 or len(chosen) < 2 or not 1 <= chosen.shape[1] < members or chosen.dtype.kind not in "iu":
        raise ValueError(
            f"committees must be at least two rows of fewer than {members} positions of members, "
            f"but they are {chosen.dtype} of shape {list(chosen.shape)}: take them from half_committees."
        )
    if chosen.min() < 0 or chosen.max() >= members or (np.diff(np.sort(chosen, axis=1), axis=1) == 0).any():
        raise ValueError(f"Each committee must hold distinct positions in 0 .. {members - 1}, but one does not.")
    return chosen.astype(np.int64)


def _not_defined(members: int, samples: int) -> str | None:
    if members < SMALLEST_COMMITTEE:
        return (
            f"at least {SMALLEST_COMMITTEE} members are needed to see how other seeds would have come out, "
            f"but there {'is' if members == 1 else 'are'} {members}"
        )
    return "at least two samples are needed, but there is 1" if samples < 2 else None
