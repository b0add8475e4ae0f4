"""Tests of the vote against its members on the same samples, and corrections for looking more than once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import irfft, next_fast_len
from scipy.integrate import quad
from scipy.special import log_ndtr, ndtri
from scipy.stats import binom, binomtest

from seedvote.stats.arrays import Floats, Integers, checked_correct, checked_shares
from seedvote.stats.variance import seed_spread

SMALLEST_P = 1e-12  # what the Fourier sum of the sign-flip test resolves
_NORMAL_L_KURTOSIS = float(30 / np.pi * np.arctan(2**0.5) - 9)  # 0.1226, Hosking 1990
_NOTHING = 1e-40  # of a characteristic function: millions of them are far below what a float64 sum resolves
_MOST_STEPS = 2**24
_ROUNDED_STEPS = 2**17


@dataclass(frozen=True, eq=False)
class McNemar:
    """The vote against one reference decision on the same samples.

    won, lost: samples where only the vote, only the reference is right; won_samples, lost_samples: their
    ascending indices. difference: ``(won - lost) / S``, vote accuracy minus reference accuracy. p_exact, p_mid:
    two-sided p-values.
    """

    won: int
    lost: int
    difference: float
    p_exact: float
    p_mid: float
    won_samples: Integers
    lost_samples: Integers


@dataclass(frozen=True)
class SelectionEffect:
    """What "the best of M seeds on the test set" owes to having looked at M.

    observed_excess: best minus mean accuracy. expected_excess: what the best of M seeds with the observed
    distribution exceeds their mean by. It is ``expected_real`` (what remains on fresh samples) plus
    ``expected_luck`` (what is lost on them). ``None`` with a reason where the deviation is not defined.
    """

    members: int
    observed_excess: float
    expected_excess: float | None
    expected_real: float | None
    expected_luck: float | None
    reason: str | None


def mcnemar(vote_correct: ArrayLike, reference_correct: ArrayLike) -> McNemar:
    """Exact McNemar test: given ``won + lost``, ``won`` is Binomial(won + lost, 1/2) if both are equally good.

    ``p_exact`` (McNemar 1947, with the binomial distribution) never rejects too often and mostly too rarely.
    ``p_mid`` is the mid-p variant, ``p_exact - P(won)`` (1 where won = lost), whose rate is close to nominal
    (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013). The reference must not have
    been chosen on these samples.

    vote_correct, reference_correct: ``[S]`` truth values. Raises ``ValueError`` for wrong shapes.
    """
    vote, reference = checked_correct(np.stack([np.asarray(vote_correct), np.asarray(reference_correct)]))
    won_samples, lost_samples = np.flatnonzero(vote & ~reference), np.flatnonzero(~vote & reference)
    won, lost = len(won_samples), len(lost_samples)
    exact = float(binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0
    middle = exact - float(binom.pmf(won, won + lost, 0.5)) if won != lost else 1.0
    return McNemar(won, lost, (won - lost) / len(vote), exact, middle, won_samples, lost_samples)


def sign_flip(differences: ArrayLike) -> float:
    """Exact two-sided sign-flip (permutation) p-value that the mean difference is 0.

    ``P(|sum_s e_s d_s| >= |sum_s d_s|)`` over all ``2^S`` equally likely signs ``e_s`` (Fisher 1935). No signs
    are drawn: on a grid of steps the sum's characteristic function is ``prod_s cos(t d_s)``, and one
    inverse Fourier transform gives its whole distribution. Multiples of ``1/q`` up to q = 1000, as for whole
    votes of q members, are met exactly; anything else is rounded to at most a 16th of ``mean_s |d_s|``. P-values
    below 1e-12 are reported as 1e-12.

    The test is exact where d is symmetric about 0 under the null, and asymptotically right otherwise.
    differences: ``[S]``, finite. Raises ``ValueError`` for anything else.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"differences must be finite numbers of shape [samples], but have shape {list(values.shape)}.")
    scale = _steps(values)
    steps = np.rint(values * scale).astype(np.int64)
    observed = int(np.rint(abs(values.sum()) * scale))
    sizes, counts = np.unique(np.abs(steps[steps != 0]), return_counts=True)
    if observed == 0:
        return 1.0
    length = next_fast_len(2 * int((sizes * counts).sum()) + 1, real=True)
    phases = 2 * np.pi / length * np.arange(length // 2 + 1)
    living, product = np.arange(len(phases)), np.ones(len(phases))
    for place in np.argsort(-counts, kind="stable"):
        product *= _power(np.cos(phases[living] * sizes[place]), int(counts[place]))
        # What many factors have made nothing stays nothing: most phases need a few of the factors.
        kept = np.abs(product) > _NOTHING
        if 2 * np.count_nonzero(kept) < len(kept):
            living, product = living[kept], product[kept]
    characteristic = np.zeros(len(phases))
    characteristic[living] = product
    distribution = irfft(characteristic, length)
    tail = 2 * float(distribution[observed : length // 2 + 1].sum())  # the other half holds the negative sums
    return min(1.0, max(SMALLEST_P, tail))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's (1979) step-down adjusted p-values, in the order given.

    ``p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))``: rejecting where ``p~ <= alpha`` keeps the chance of any
    false rejection among the m tests below alpha, however they depend on each other.
    Raises ``ValueError`` for p-values outside 0 .. 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values must be numbers in 0 .. 1, but they are {list(p_values)}.")
    order = np.argsort(values, kind="stable")
    steps = np.minimum(1.0, values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(steps) if len(values) else steps
    return tuple(adjusted.tolist())


def expected_maximum(count: int) -> float:
    """Expected largest of ``count`` independent standard normals, ``int x n phi(x) Phi(x)^(n-1) dx``.

    1.5388 for ten. Raises ``ValueError`` for a count below 1.
    """
    if count < 1:
        raise ValueError(f"The largest of at least one number was wanted, but count is {count}.")
    if count == 1:
        return 0.0

    def weighted(x: float) -> float:
        return float(x * count * np.exp(-x * x / 2 + (count - 1) * log_ndtr(x)) / np.sqrt(2 * np.pi))

    middle = float(ndtri(1 - 1 / (count + 1)))
    return float(quad(weighted, -12, middle, epsabs=1e-13)[0] + quad(weighted, middle, 14, epsabs=1e-13)[0])


def selection_effect(correct: ArrayLike) -> SelectionEffect:
    """Expected excess of the best of M members on the test set, and the part of it that is luck.

    The expected excess is that of ``expected_excess``. By regression to the mean ``real / sd^2`` of it is the member's
    own, with ``sd^2 = real + noise`` the observed variance of the accuracies (see ``seed_spread``).
    correct: ``[M, S]``. Raises ``ValueError`` for wrong shapes.
    """
    right = checked_correct(correct)
    accuracies = right.mean(axis=1)
    excess = float(accuracies.max() - accuracies.mean())
    spread = seed_spread(right, splits=0)
    if spread.observed is None or spread.real is None:
        return SelectionEffect(len(right), excess, None, None, None, spread.reason)
    expected = expected_excess(accuracies)
    share = min(1.0, spread.real / spread.observed) if spread.observed else 0.0
    return SelectionEffect(len(right), excess, expected, expected * share, expected * (1 - share), None)


def expected_excess(values: Floats) -> float:
    """Expected largest of as many fresh values, minus their mean, from the L-moments of at least two values.

    ``E[max of M] - mean = sum_{r >= 1} (2r + 1) c_r l_(r+1)``, ``c_r = M (M - 1)!^2 / ((M - 1 - r)! (M + r)!)``
    (Sillitto, Biometrika 56, 1969; Hosking, JRSS B 52, 1990). Spread, skewness and kurtosis, ``l_2 .. l_4``, are the
    sample's, each without bias; all that is beyond them is a normal distribution's of the same spread.
    """
    count = len(values)
    moments = l_moments(values)
    expected = float(np.pi**0.5) * moments[1] * expected_maximum(count)
    normal = (0.0, moments[1], 0.0, _NORMAL_L_KURTOSIS * moments[1])
    for order in range(2, len(moments)):
        weight = 2 * order + 1.0
        for step in range(1, order + 1):
            weight *= (count - step) / (count + step)
        expected += weight * (moments[order] - normal[order])
    return max(expected, 0.0)


def l_moments(values: Floats) -> tuple[float, ...]:
    """Unbiased L-moments ``l_1 .. l_4``, as many as there are values for (Hosking, JRSS B 52, 1990).

    ``l_(r+1) = sum_k (-1)^(r-k) C(r, k) C(r+k, k) b_k`` with ``b_k = mean_i C(i, k) / C(n-1, k) x_i`` over the
    ascending values ``x_0 .. x_(n-1)``.
    """
    count = len(values)
    ordered = np.sort(values)
    weighted = [
        float(np.mean([comb(rank, k) / comb(count - 1, k) * value for rank, value in enumerate(ordered)]))
        for k in range(min(count, 4))
    ]
    return tuple(
        sum((-1) ** (r - k) * comb(r, k) * comb(r + k, k) * weighted[k] for k in range(r + 1))
        for r in range(len(weighted))
    )


def paired_differences(correct: ArrayLike, vote_correct: ArrayLike) -> Floats:
    """``vote_correct_s - mean_m correct_ms``, ``[S]``, for correct ``[M, S]`` and vote_correct ``[S]``."""
    right = checked_correct(correct)
    vote = checked_shares("vote_correct", vote_correct, right.shape[1:])
    members = len(right)
    # One division of whole numbers, so that equal differences are equal to the last bit.
    differences: Floats = (vote * members - right.sum(axis=0)) / members
    return differences


def _power(values: Floats, exponent: int) -> Floats:
    """``values ** exponent`` for a whole exponent from 1 up, by squaring, which is far faster than numpy's power."""
    result = values if exponent % 2 else np.ones_like(values)
    while exponent := exponent // 2:
        values = values * values
        if exponent % 2:
            result = result * values
    return result


def _steps(values: Floats) -> float:
    """Steps to a unit: the smallest whole number that makes all values whole, or else as many as are affordable."""
    nonzero = np.unique(np.abs(values[values != 0]))
    total = float(np.abs(values).sum())
    for parts in range(1, 1001):
        scaled = nonzero * parts
        if total * parts < _MOST_STEPS / 2 and (np.abs(scaled - np.rint(scaled)) < 1e-9 * (1 + scaled)).all():
            return parts
    return max(_ROUNDED_STEPS, 16 * len(values)) / total
