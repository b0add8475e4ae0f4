"""Where the variance of correctness comes from: the seeds, the examples, or the two together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2

from seedvote.stats.arrays import Booleans, Floats, checked_correct


@dataclass(frozen=True)
class Components:
    """Variance of a member's correctness on a sample, cut into parts.

    seed: how much seeds differ in accuracy. example: how much samples differ in difficulty. residual: the rest,
    which holds their interaction. seed and example are cut off at 0; ``*_raw`` are the unbiased estimates, which
    may fall below it. ``None`` with a reason where they are not defined.
    """

    seed: float | None
    example: float | None
    residual: float | None
    seed_raw: float | None
    example_raw: float | None
    reason: str | None


@dataclass(frozen=True)
class SeedSpread:
    """How much of the spread of accuracies between seeds is real; all variances of an accuracy in 0 .. 1.

    observed: sample variance (n - 1) of the members' accuracies, ``real_raw + noise``. real: what would remain
    on an infinite test set, ``real_raw`` cut off at 0. noise: what the finite test set adds. binomial: the
    naive ``acc (1 - acc) / S``, too large since all seeds share the same samples. split_half: covariance of the
    accuracies on random halves of the samples, which checks ``real_raw``; ``None`` where not asked for.
    cochran_p: p-value of Cochran's Q that all seeds are equally good on the population of samples.
    """

    observed: float | None
    real: float | None
    real_raw: float | None
    noise: float | None
    binomial: float | None
    split_half: float | None
    cochran_p: float | None
    reason: str | None


def variance_components(correct: ArrayLike) -> Components:
    """Two-way random-effects analysis of variance, seeds crossed with examples, one value in each cell.

    ``seed = (MS_seed - MS_residual) / S``, ``example = (MS_example - MS_residual) / M``,
    ``residual = MS_residual`` (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4): unbiased
    for the variances of the expected correctness even though it is 0 or 1.
    correct: ``[M, S]``. Raises ``ValueError`` for wrong shapes.
    """
    right = checked_correct(correct)
    if min(right.shape) < 2:
        return Components(None, None, None, None, None, _too_few(right))
    members, samples = right.shape
    of_seeds, of_examples, of_residual = mean_squares(right.mean(axis=1), right.mean(axis=0), float(right.mean()))
    seed, example = (of_seeds - of_residual) / samples, (of_examples - of_residual) / members
    return Components(max(seed, 0.0), max(example, 0.0), of_residual, seed, example, None)


def seed_spread(correct: ArrayLike, *, splits: int = 200, seed: int = 0) -> SeedSpread:
    """Cut the observed variance between seeds into a real part and what the finite test set adds.

    ``observed = MS_seed / S``, ``noise = MS_residual / S``, ``real = observed - noise``: examples are shared,
    so that their difficulty cancels between seeds. The mean over ``splits`` random halves of
    ``cov_m(acc_m on one half, acc_m on the other)`` estimates ``real`` too, without a model.
    ``Q = (M - 1) sum_m (T_m - mean T)^2 / (sum_s U_s (M - U_s) / M)`` with row and column totals T and U is
    about chi-squared with M - 1 degrees of freedom if seeds are alike (Cochran, Biometrika 37, 1950).

    correct: ``[M, S]``. splits: 0 leaves the check out. Raises ``ValueError`` for wrong shapes.
    """
    right = checked_correct(correct)
    if min(right.shape) < 2:
        return SeedSpread(None, None, None, None, None, None, None, _too_few(right))
    members, samples = right.shape
    accuracies, overall = right.mean(axis=1), float(right.mean())
    of_seeds, _, of_residual = mean_squares(accuracies, right.mean(axis=0), overall)
    raw = (of_seeds - of_residual) / samples
    votes = right.sum(axis=0)
    discordance = float((votes * (members - votes)).sum()) / members
    statistic = (members - 1) ** 2 * samples * of_seeds / discordance if discordance else 0.0
    return SeedSpread(
        observed=of_seeds / samples,
        real=max(raw, 0.0),
        real_raw=raw,
        noise=of_residual / samples,
        binomial=overall * (1 - overall) / samples,
        split_half=_split_half(right, splits, seed) if splits else None,
        cochran_p=float(chi2.sf(statistic, members - 1)) if discordance else 1.0,
        reason=None,
    )


def mean_squares(seed_means: Floats, example_means: Floats, squares: float) -> tuple[float, float, float]:
    """Mean squares of seeds, examples and residual of a two-way table with one value in each cell.

    seed_means: ``[M]``. example_means: ``[S]``. squares: mean of the squared cells, which is the mean itself
    for zeros and ones. Both dimensions must be at least 2.
    """
    members, samples = len(seed_means), len(example_means)
    overall = float(example_means.mean())
    between_seeds = float(np.square(seed_means - overall).sum()) * samples
    between_examples = float(np.square(example_means - overall).sum()) * members
    total = (squares - overall**2) * members * samples
    residual = max(total - between_seeds - between_examples, 0.0)
    if residual < 1e-12 * members * samples:  # the rounding of sums that cancel
        residual = 0.0
    return (
        between_seeds / (members - 1),
        between_examples / (samples - 1),
        residual / ((members - 1) * (samples - 1)),
    )


def _split_half(right: Booleans, splits: int, seed: int) -> float:
    generator = np.random.default_rng(seed)
    members, samples = right.shape
    half = samples // 2
    chosen = np.zeros((samples, splits), dtype=np.float32)
    for split in range(splits):
        chosen[generator.permutation(samples)[:half], split] = 1
    totals = right.sum(axis=1, keepdims=True)
    first = right.astype(np.float32) @ chosen  # whole numbers below 2^24, so float32 is exact
    one, other = first / half, (totals - first) / (samples - half)
    centred = one - one.mean(axis=0)
    return float((centred * other).sum(axis=0).mean() / (members - 1))


def _too_few(right: Booleans) -> str:
    members, samples = right.shape
    return f"at least two members and two samples are needed, but there are {members} and {samples}"
