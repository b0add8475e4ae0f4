"""Which classes the vote helps, which it harms, and the samples to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from seedvote.stats.arrays import (
    Floats,
    Integers,
    checked_correct,
    checked_decisions,
    checked_labels,
    checked_shares,
    checked_targets,
)


@dataclass(frozen=True, eq=False)
class PerClass:
    """Recall of each class, ``None`` for a class without a sample.

    support: samples of each class. single: mean recall of the members. vote: the vote's. difference: vote minus
    single. vote_confusion: ``[C, C]``, true classes in rows, decided ones in columns; single_confusion: the same, mean
    over members. Abstentions (-1) are in no column. reason: which classes have no recall, if any.
    """

    support: tuple[int, ...]
    single: tuple[float | None, ...]
    vote: tuple[float | None, ...]
    difference: tuple[float | None, ...]
    vote_confusion: Integers
    single_confusion: Floats
    reason: str | None


@dataclass(frozen=True, eq=False)
class Outvoted:
    """Samples on which the vote and most single members part, ascending share of right members decides the order.

    saved: the vote is right although at most half of the members are, fewest first. lost: the vote is wrong although
    at least half of them are right, most first.
    """

    saved: Integers
    lost: Integers


def per_class(labels: ArrayLike, vote_labels: ArrayLike, targets: ArrayLike, *, classes: int) -> PerClass:
    """Recall of each class, of single members on average and of the vote, and both confusion matrices.

    labels: ``[M, S]``. vote_labels, targets: ``[S]``. classes: C. Raises ``ValueError`` for wrong shapes and for
    classes outside ``0 .. C-1`` (-1, an abstention, is allowed in decisions).
    """
    true = checked_targets(targets)
    own = checked_labels(labels, true)
    vote = checked_decisions("vote_labels", vote_labels, len(true))
    highest = int(max(true.max(), own.max(), vote.max()))
    if highest >= classes or min(own.min(), vote.min()) < -1:
        raise ValueError(f"Classes in 0 .. {classes - 1} were wanted, but there is a class {highest} or one below -1.")
    vote_confusion = _confusion(true, vote, classes)
    single_confusion = np.zeros((classes, classes))
    for member in own:
        single_confusion += _confusion(true, member, classes)
    single_confusion /= len(own)
    support = np.bincount(true, minlength=classes)
    absent = np.flatnonzero(support == 0).tolist()
    single = _recall(np.diagonal(single_confusion), support)
    voted = _recall(np.diagonal(vote_confusion), support)
    return PerClass(
        tuple(support.tolist()),
        single,
        voted,
        tuple(None if a is None or b is None else b - a for a, b in zip(single, voted, strict=True)),
        vote_confusion,
        single_confusion,
        f"no sample of class {', '.join(map(str, absent))}, which has no recall" if absent else None,
    )


def outvoted(correct: ArrayLike, vote_correct: ArrayLike) -> Outvoted:
    """Samples that the vote saves from, and loses to, most of its members.

    correct: ``[M, S]``. vote_correct: ``[S]`` truth values. Raises ``ValueError`` for wrong shapes.
    """
    right = checked_correct(correct)
    vote = checked_shares("vote_correct", vote_correct, right.shape[1:])
    share = right.mean(axis=0)
    saved = np.flatnonzero((vote == 1) & (share <= 0.5))
    lost = np.flatnonzero((vote == 0) & (share >= 0.5))
    return Outvoted(
        saved[np.argsort(share[saved], kind="stable")],
        lost[np.argsort(-share[lost], kind="stable")],
    )


def _confusion(true: Integers, decided: Integers, classes: int) -> Integers:
    """scikit-learn's ``confusion_matrix`` over all classes, in one pass: it is needed for each of many members."""
    kept = decided >= 0
    counts = np.bincount(true[kept] * classes + decided[kept], minlength=classes * classes)
    return counts.astype(np.int64).reshape(classes, classes)


def _recall(hits: Floats | Integers, support: Integers) -> tuple[float | None, ...]:
    return tuple(
        float(hit / count) if count else None for hit, count in zip(hits.tolist(), support.tolist(), strict=True)
    )
