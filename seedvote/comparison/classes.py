"""Which classes the primary vote helps, and which classes it takes for one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seedvote import stats
from seedvote.comparison.records import ClassGain, Confusion

Integers = NDArray[np.int64]


def per_class(
    labels: Integers, decided: Integers, targets: Integers, classes: Sequence[str]
) -> tuple[tuple[ClassGain, ...], tuple[Confusion, ...]]:
    """Recall of each class by single seeds and by the vote, tested; and the cells of both confusion matrices.

    labels: ``[M, S]``, the members' decisions. decided, targets: ``[S]``. classes: names. Confusions
    come with the largest change first, then the most frequent.
    """
    found = stats.per_class(labels, decided, targets, classes=len(classes))
    differences = (decided == targets).astype(np.float64) - (labels == targets).mean(axis=0)
    p_values = {
        label: stats.sign_flip(differences[targets == label]) for label, count in enumerate(found.support) if count
    }
    corrected = dict(zip(p_values, stats.holm(list(p_values.values())), strict=True))
    gains = tuple(
        ClassGain(
            label,
            classes[label],
            count,
            found.single[label],
            found.vote[label],
            found.difference[label],
            p_values.get(label),
            corrected.get(label),
            None if count else "no test sample of this class",
        )
        for label, count in enumerate(found.support)
    )
    single, vote = found.single_confusion.copy(), found.vote_confusion.copy()
    np.fill_diagonal(single, 0)
    np.fill_diagonal(vote, 0)
    cells = np.argwhere((single > 0) | (vote > 0)).tolist()
    confusions = [Confusion(row, column, float(single[row, column]), int(vote[row, column])) for row, column in cells]
    confusions.sort(key=lambda cell: (-abs(cell.vote - cell.single), -cell.single, cell.true, cell.decided))
    return gains, tuple(confusions)
