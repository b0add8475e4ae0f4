"""Intervals over random test examples, with the seeds as they are ("this committee")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from seedvote.stats.arrays import Floats, checked_correct, checked_shares
from seedvote.stats.significance import paired_differences, sign_flip

_TIE = 1e-12


@dataclass(frozen=True)
class Interval:
    """A confidence interval, or no interval (both ends ``None``) and the reason why."""

    lower: float | None
    upper: float | None
    level: float
    reason: str | None = None


@dataclass(frozen=True)
class CommitteeDifference:
    """Accuracy of this vote minus the mean accuracy of its members, in 0 .. 1.

    interval: over fresh test examples, seeds fixed. p_value: exact sign-flip test over the examples. differing:
    how many of the ``samples`` the vote and the mean member differ on. resamples: drawn by the bootstrap.
    """

    difference: float
    interval: Interval
    p_value: float
    samples: int
    differing: int
    resamples: int


@dataclass(frozen=True)
class BeatsSeed:
    """How often the vote beats one of its members drawn at random.

    probability: ``(below + equal / 2) / M``, where below, equal and above count the members by their accuracy
    against the vote's. interval, resampled_mean: of the same number when the test examples are drawn afresh.
    """

    probability: float
    below: int
    equal: int
    above: int
    interval: Interval
    resampled_mean: float


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's (1927) score interval for a proportion.

    ``(p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)``: it stays within 0 .. 1 and keeps a width
    where all are right. Raises ``ValueError`` unless ``0 <= successes <= trials`` and ``trials > 0``.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"successes must lie in 0 .. trials, trials above 0, but they are {successes} of {trials}.")
    z = _normal_quantile(level)
    share = successes / trials
    middle = share + z**2 / (2 * trials)
    half = z * float(np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)))
    scale = 1 + z**2 / trials
    lower = 0.0 if successes == 0 else (middle - half) / scale
    upper = 1.0 if successes == trials else (middle + half) / scale
    return Interval(lower, upper, level)


def committee_difference(
    correct: ArrayLike, vote_correct: ArrayLike, *, level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> CommitteeDifference:
    """Is this committee, with these seeds, better than its members are on average?

    ``d_s = vote_correct_s - mean_m correct_ms``; the difference is its mean. The interval is the BCa bootstrap
    over examples (see ``mean_interval``), the p-value that of ``sign_flip``. It says nothing about other seeds:
    see ``procedure_difference``.

    correct: ``[M, S]``. vote_correct: ``[S]``, truth values, or fractions where ties are split.
    Raises ``ValueError`` for wrong shapes.
    """
    differences = paired_differences(correct, vote_correct)
    interval = mean_interval(differences, level=level, resamples=resamples, seed=seed)
    return CommitteeDifference(
        float(differences.mean()),
        interval,
        sign_flip(differences),
        len(differences),
        int((np.abs(differences) > _TIE).sum()),
        resamples,
    )


def mean_interval(values: Floats, *, level: float = 0.95, resamples: int = 9999, seed: int = 0) -> Interval:
    """BCa bootstrap interval of the mean of independent values ``[S]`` (Efron, JASA 82, 1987).

    Percentiles of resampled means, shifted by the bias ``z0 = Phi^-1(share of means below the mean, ties half)``
    and the acceleration ``a = sum d^3 / (6 (sum d^2)^1.5)`` with ``d = x - mean``, which for a mean is the
    jackknife's. Equal values are drawn together, their counts multinomial: that is the same distribution as
    drawing S indices, at a fraction of the cost where values are few.
    """
    deviations = values - values.mean()
    spread = float(np.square(deviations).sum())
    if spread <= _TIE * _TIE * len(values):
        return Interval(None, None, level, "every sample shows the same difference, so there is no spread to resample")
    distinct, counts = np.unique(np.round(deviations, 12), return_counts=True)
    generator = np.random.default_rng(seed)
    step = max(1, 2**22 // len(distinct))
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    shares = counts / counts.sum()
    means = np.concatenate([generator.multinomial(len(values), shares, size) @ distinct for size in sizes])
    means /= len(values)
    below = ((means < -_TIE).sum() + (means <= _TIE).sum()) / (2 * resamples)
    if not 0 < below < 1:
        return Interval(None, None, level, "all resampled means lie on one side: the samples are too few or too alike")
    bias = ndtri(below)
    acceleration = float((deviations**3).sum()) / (6 * spread**1.5)
    z = _normal_quantile(level)
    ends = [ndtr(bias + (bias + side) / (1 - acceleration * (bias + side))) for side in (-z, z)]
    lower, upper = np.quantile(means, ends) + values.mean()
    return Interval(float(lower), float(upper), level)


def beats_random_seed(
    correct: ArrayLike, vote_correct: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> BeatsSeed:
    """Probability that the vote has a higher accuracy than one of its members drawn at random.

    Ties count half, as in the Mann-Whitney statistic. The interval is the percentile bootstrap (Efron 1979)
    over test examples, the same examples for all. The members are the vote's own, so that this describes
    them; it is no test.

    correct: ``[M, S]``. vote_correct: ``[S]``. Raises ``ValueError`` for wrong shapes.
    """
    right = checked_correct(correct)
    members, samples = right.shape
    vote = checked_shares("vote_correct", vote_correct, (samples,))
    margins = (vote - right).T  # [S, M]
    totals = margins.sum(axis=0)
    below, above = int((totals > 1e-9).sum()), int((totals < -1e-9).sum())
    patterns, counts = np.unique(margins, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    step = max(1, 2**22 // len(patterns))
    shares = []
    for start in range(0, resamples, step):
        drawn = generator.multinomial(samples, counts / samples, min(step, resamples - start)) @ patterns
        shares.append(((drawn > 1e-9).mean(axis=1) + (drawn >= -1e-9).mean(axis=1)) / 2)
    resampled = np.concatenate(shares)
    lower, upper = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return BeatsSeed(
        (below + (members - below - above) / 2) / members,
        below,
        members - below - above,
        above,
        Interval(float(lower), float(upper), level),
        float(resampled.mean()),
    )


def _normal_quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, but it is {level}: try the default 0.95.")
    return float(ndtri((1 + level) / 2))
