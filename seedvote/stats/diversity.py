"""How differently the members decide, and what their agreement tells about a decision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from seedvote.stats.arrays import Floats, Integers, checked_decisions, checked_labels, checked_targets

_ONE_MEMBER = "one member has nobody to differ from"
_UNDEFINED = {
    "error_correlation": "in every pair a member is right on all samples or on none",
    "yule_q": "in every pair both products of counts are 0",
    "kappa": "all members put every sample into one class",
}


@dataclass(frozen=True, eq=False)
class Diversity:
    """Means over pairs of members; ``None``, with an entry in ``reasons``, where no pair defines one.

    disagreement: fraction of samples decided differently, 0 .. 1. disagreement_normalized: the same, divided by the
    mean error rate. error_correlation: phi, -1 .. 1. yule_q: -1 .. 1. kappa: Cohen's, of the decisions.
    oracle_accuracy: fraction of samples on which at least one member is right. pairs: over how many pairs each mean
    goes. disagreement_matrix: ``[M, M]``, symmetric, zeros on the diagonal.
    """

    disagreement: float | None
    disagreement_normalized: float | None
    error_correlation: float | None
    yule_q: float | None
    kappa: float | None
    oracle_accuracy: float
    pairs: dict[str, int]
    reasons: dict[str, str]
    disagreement_matrix: Floats


@dataclass(frozen=True)
class AgreementBin:
    """Samples by the share of members behind the plurality, ``lower < share <= upper``; accuracy ``None`` if empty."""

    lower: float
    upper: float
    count: int
    accuracy: float | None


def diversity(labels: ArrayLike, targets: ArrayLike) -> Diversity:
    """Pairwise measures of diversity (Kuncheva and Whitaker, Machine Learning 51, 2003).

    With ``n11, n00`` the samples on which both of a pair are right, wrong, and ``n10, n01`` those on which one is:
    ``phi = (n11 n00 - n10 n01) / sqrt((n11+n10)(n01+n00)(n11+n01)(n10+n00))``,
    ``Q = (n11 n00 - n10 n01) / (n11 n00 + n10 n01)``. ``kappa = (agreement - chance) / (1 - chance)`` of the decisions
    (Cohen 1960). Disagreement divided by the error rate is comparable between accuracies (Fort, Hu and
    Lakshminarayanan, arXiv:1912.02757, 2019). A pair whose denominator is 0 is left out of that mean.

    labels: ``[M, S]``. targets: ``[S]``. Raises ``ValueError`` for wrong shapes.
    """
    true = checked_targets(targets)
    decisions = checked_labels(labels, true)
    right = decisions == true
    differing = _differing(decisions)
    upper = np.triu_indices(len(decisions), 1)
    measures = _pair_measures(decisions, right, differing)
    means: dict[str, float | None] = {}
    pairs, reasons = {}, {}
    for name, (above, below) in measures.items():
        defined = below[upper] > 0
        pairs[name] = int(defined.sum())
        means[name] = float((above[upper][defined] / below[upper][defined]).mean()) if defined.any() else None
        if not defined.any():
            reasons[name] = _ONE_MEMBER if len(decisions) == 1 else _UNDEFINED[name]
    errors = 1 - float(right.mean())
    disagreement = means["disagreement"]
    normalized = disagreement / errors if disagreement is not None and errors > 0 else None
    if normalized is None:
        reasons["disagreement_normalized"] = _ONE_MEMBER if disagreement is None else "no member makes any error"
    return Diversity(
        disagreement, normalized, means["error_correlation"], means["yule_q"], means["kappa"],
        float(right.any(axis=0).mean()), pairs, reasons, differing / len(true),
    )  # fmt: skip


def agreement_table(
    labels: ArrayLike, decisions: ArrayLike, targets: ArrayLike, *, bins: int = 10
) -> tuple[AgreementBin, ...]:
    """How often the vote is right, by the share of members behind the most voted class.

    Where there are at most ``bins`` members each share ``j / M`` has a row, otherwise ``bins`` equal widths do.
    labels: ``[M, S]``, the members' decisions. decisions: ``[S]``, the vote's. targets: ``[S]``.
    Raises ``ValueError`` for wrong shapes and no bins.
    """
    true = checked_targets(targets)
    own = checked_labels(labels, true)
    right = checked_decisions("decisions", decisions, len(true)) == true
    if bins < 1:
        raise ValueError(f"At least one bin is needed, but bins is {bins}: try the default 10.")
    members = len(own)
    votes = _plurality_size(own)
    rows = min(bins, members)
    places = (votes * rows - 1) // members  # whole numbers: no share falls into the wrong bin by rounding
    counts = np.bincount(places, minlength=rows)
    good = np.bincount(places, weights=right, minlength=rows)
    accuracies = [float(hits / count) if count else None for hits, count in zip(good, counts, strict=True)]
    return tuple(AgreementBin(row / rows, (row + 1) / rows, int(counts[row]), accuracies[row]) for row in range(rows))


def _differing(decisions: Integers) -> Floats:
    members = len(decisions)
    matrix = np.zeros((members, members))
    for m in range(members - 1):
        matrix[m, m + 1 :] = matrix[m + 1 :, m] = (decisions[m + 1 :] != decisions[m]).sum(axis=1)
    return matrix


def _pair_measures(decisions: Integers, right: np.ndarray, differing: Floats) -> dict[str, tuple[Floats, Floats]]:
    """Numerators and denominators ``[M, M]``; a pair whose denominator is 0 has no value."""
    members, samples = right.shape
    hits = right.astype(np.float64)
    both = hits @ hits.T
    totals = hits.sum(axis=1)
    only_first, only_second = totals[:, np.newaxis] - both, totals - both
    neither = samples - both - only_first - only_second
    product, cross = both * neither, only_first * only_second
    margins = totals * (samples - totals)
    classes, columns = np.unique(decisions, return_inverse=True)
    shares = np.zeros((members, len(classes)))
    for m, row in enumerate(columns.reshape(decisions.shape)):
        shares[m] = np.bincount(row, minlength=len(classes)) / samples
    chance = shares @ shares.T
    # A chance agreement of 1 up to rounding means that both put everything into the same class.
    kappa_below = np.where(1 - chance > 1e-12, 1 - chance, 0.0)
    return {
        "disagreement": (differing / samples, np.ones((members, members))),
        "error_correlation": (product - cross, np.sqrt(np.outer(margins, margins))),
        "yule_q": (product - cross, product + cross),
        "kappa": (1 - differing / samples - chance, kappa_below),
    }


def _plurality_size(labels: Integers) -> Integers:
    """Votes ``[S]`` of the most voted class: the longest run of equal labels among the sorted ones."""
    ordered = np.sort(labels, axis=0)
    run = np.ones(labels.shape[1], dtype=np.int64)
    longest = run.copy()
    for row in range(1, len(ordered)):
        run = np.where(ordered[row] == ordered[row - 1], run + 1, 1)
        longest = np.maximum(longest, run)
    return longest
