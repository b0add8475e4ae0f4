"""Accuracy against the size of the committee: what a vote of k of the M members can be expected to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seedvote.stats.arrays import (
    CHUNK_ELEMENTS,
    Booleans,
    Floats,
    Integers,
    checked_members,
    checked_shares,
    checked_targets,
    member_chunks,
)

SUBSETS = 200
_ALL_SIZES = 16


@dataclass(frozen=True, eq=False)
class Curve:
    """Expected accuracy of a vote of k of the M members, 0 .. 1, over committees drawn without replacement.

    sizes: ``[K]``, ascending k. accuracy: ``[K]``. deviation: for each k the standard deviation over the subsets
    seen, ``None`` where there is one or they were not looked at singly; subsets overlap more and more as k grows, so
    that it falls to 0 at M and is no standard error. subsets: ``[K]``, how many stand behind each value.
    exact: whether they are all there are. per_sample: ``[K, S]``, expected correctness of each sample.
    """

    members: int
    sizes: Integers
    accuracy: Floats
    deviation: tuple[float | None, ...]
    subsets: tuple[int, ...]
    exact: bool
    per_sample: Floats


def committee_sizes(members: int, limit: int = _ALL_SIZES) -> tuple[int, ...]:
    """All sizes from 1 to ``members``, or about ``limit`` that grow by a constant factor, with 1, 2, 3 and the largest.

    Raises ``ValueError`` for no members.
    """
    if members < 1:
        raise ValueError(f"A committee has at least one member, but {members} were given.")
    if members <= limit:
        return tuple(range(1, members + 1))
    grid = np.rint(np.geomspace(1, members, limit)).astype(int).tolist()
    return tuple(sorted({1, 2, 3, members, *grid}))


def soft_curve(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    sizes: Sequence[int] | None = None,
    subsets: int = SUBSETS,
    seed: int = 0,
) -> Curve:
    """Accuracy of the soft vote (mean probability, lowest class if tied) against committee size.

    All subsets of k members where there are at most ``subsets``, otherwise that many distinct ones at random.
    probabilities: ``[M, S, C]``. targets: ``[S]``. Raises ``ValueError`` for wrong shapes, sizes outside
    1 .. M and rows that are no probabilities.
    """
    true = checked_targets(targets)
    values = checked_members(probabilities, true)
    return soft_curves_of(values, true, [np.arange(len(values))], [sizes], subsets, seed)[0]


def soft_curves_of(
    values: NDArray[np.generic],
    true: Integers,
    kept: Sequence[Integers],
    sizes: Sequence[Sequence[int] | None],
    subsets: int,
    seed: int,
) -> tuple[Curve, ...]:
    """``soft_curve`` of several choices of members in one pass over their probabilities ``[M, S, C]``.

    kept: positions of the members of each curve. sizes: committee sizes of each curve.
    """
    wanted = [checked_sizes(each, len(chosen)) for each, chosen in zip(sizes, kept, strict=True)]
    sets = [_all_subsets(len(chosen), each, subsets, seed) for each, chosen in zip(wanted, kept, strict=True)]
    groups = [chosen[group] for chosen, each in zip(kept, sets, strict=True) for group in each]
    rows = np.zeros((sum(map(len, groups)), len(values)))
    for row, members in enumerate(members for group in groups for members in group):
        rows[row, members] = 1
    ends = np.cumsum([len(group) for group in groups])[:-1]
    per_sample = np.empty((len(groups), len(true)))
    totals = np.zeros(len(rows))
    for piece, right in soft_right(rows, values, true):
        totals += right.sum(axis=1)
        per_sample[:, piece] = [part.mean(axis=0) for part in np.split(right, ends)]
    accuracies = np.split(totals / len(true), ends)
    starts = np.cumsum([0] + [len(each) for each in wanted])
    return tuple(
        _curve(len(chosen), each, own, per_sample[start : start + len(each)], accuracies[start : start + len(each)])
        for chosen, each, own, start in zip(kept, wanted, sets, starts.tolist(), strict=False)
    )


def subset_curve(
    vote_correct: Callable[[Integers], ArrayLike],
    members: int,
    *,
    sizes: Sequence[int] | None = None,
    subsets: int = SUBSETS,
    seed: int = 0,
) -> Curve:
    """Accuracy of any rule against committee size, one call for each subset of members.

    vote_correct: takes ascending positions of members and returns ``[S]``, whether their vote is right (or a
    fraction where ties are split). The subsets are those of ``soft_curve``. Raises ``ValueError`` for sizes
    outside 1 .. M and for answers outside 0 .. 1.
    """
    wanted = checked_sizes(sizes, members)
    sets = _all_subsets(members, wanted, subsets, seed)
    per_sample, accuracies = [], []
    for group in sets:
        answers = [np.asarray(vote_correct(chosen)) for chosen in group]
        right = np.stack([checked_shares("vote_correct", answer, answers[0].shape) for answer in answers])
        per_sample.append(right.mean(axis=0))
        accuracies.append(right.mean(axis=1))
    return _curve(members, wanted, sets, np.stack(per_sample), accuracies)


def worthwhile(curve: Curve, *, tolerance: float = 0.001) -> int:
    """Smallest committee whose expected accuracy is within ``tolerance`` (default 0.1 points) of that of the largest.

    Choose the size on validation data; on test data this describes and must not select.
    """
    good = curve.accuracy >= curve.accuracy[-1] - tolerance - 1e-12
    return int(curve.sizes[int(good.argmax())])


def soft_right(rows: Floats, values: NDArray[np.generic], true: Integers) -> Iterator[tuple[slice, Booleans]]:
    """Whether the soft vote of each subset is right, ``[T, S]``, in pieces along the samples.

    rows: ``[T, M]``, a subset's members as ones among zeros. values: ``[M, S, C]``. A class that every member puts
    below the class with the highest mean cannot win in any subset, so that most samples need few classes or none.
    """
    used = np.flatnonzero(rows.any(axis=0))
    rows = rows[:, used]
    for piece, chunk in member_chunks(values):
        members = chunk[used]
        top = members.mean(axis=0).argmax(axis=1)
        highest = np.take_along_axis(members, top[np.newaxis, :, np.newaxis], axis=2)
        possible = np.asarray((members >= highest).any(axis=0))
        right = np.empty((len(rows), len(top)), dtype=np.bool_)
        widths = 2 ** np.ceil(np.log2(possible.sum(axis=1))).astype(int)  # 1 where no other class can win
        for width in np.unique(widths):
            at = np.flatnonzero(widths == width)
            # The possible classes first, in ascending order so that the lowest of tied ones still wins.
            classes = np.argsort(~possible[at], axis=1, kind="stable")[:, :width]
            right[:, at] = _winners(rows, members[:, at], classes) == true[piece][at]
        yield piece, right


def _winners(rows: Floats, members: Floats, classes: Integers) -> Integers:
    """The class among ``classes`` ``[S, W]`` with the largest sum over each subset, ``[T, S]``."""
    samples, width = classes.shape
    if width == 1:
        return np.broadcast_to(classes[:, 0], (len(rows), samples))
    step = max(1, CHUNK_ELEMENTS // (len(rows) * width))
    winners = np.empty((len(rows), samples), dtype=np.int64)
    for start in range(0, samples, step):
        piece = slice(start, start + step)
        values = np.take_along_axis(members[:, piece], classes[np.newaxis, piece], axis=2)
        sums = (rows @ values.reshape(len(values), -1)).reshape(len(rows), -1, width)
        winners[:, piece] = np.take_along_axis(classes[piece], sums.argmax(axis=2).T, axis=1).T
    return winners


def _all_subsets(members: int, sizes: Sequence[int], limit: int, seed: int) -> list[Integers]:
    """For each size the subsets to look at, ``[T, k]``."""
    if limit < 1:
        raise ValueError(f"At least one subset of each size is needed, but subsets is {limit}: try {SUBSETS}.")
    generator = np.random.default_rng(seed)
    return [subsets_of(members, size, limit, generator) for size in sizes]


def subsets_of(members: int, size: int, limit: int, generator: np.random.Generator) -> Integers:
    """All subsets ``[T, size]`` of the members where there are at most ``limit``, else that many distinct ones."""
    return np.array(list(_subsets(members, size, limit, generator)), dtype=np.int64)


def _subsets(members: int, size: int, limit: int, generator: np.random.Generator) -> Iterator[tuple[int, ...]]:
    if comb(members, size) <= limit:
        yield from combinations(range(members), size)
        return
    seen: set[tuple[int, ...]] = set()
    while len(seen) < limit:
        drawn = tuple(sorted(generator.permutation(members)[:size].tolist()))
        if drawn not in seen:
            seen.add(drawn)
            yield drawn


def _curve(
    members: int, sizes: Sequence[int], sets: Sequence[Integers], per_sample: Floats, accuracies: Sequence[Floats]
) -> Curve:
    return Curve(
        members,
        np.array(sizes, dtype=np.int64),
        np.array([values.mean() for values in accuracies]),
        tuple(float(values.std(ddof=1)) if len(values) > 1 else None for values in accuracies),
        tuple(len(group) for group in sets),
        all(len(group) == comb(members, size) for group, size in zip(sets, sizes, strict=True)),
        per_sample,
    )


def checked_sizes(sizes: Sequence[int] | None, members: int) -> tuple[int, ...]:
    """Ascending committee sizes, default ``committee_sizes``; ``ValueError`` unless they lie in 1 .. M."""
    wanted = committee_sizes(members) if sizes is None else tuple(sorted({int(size) for size in sizes}))
    if not wanted or wanted[0] < 1 or wanted[-1] > members:
        raise ValueError(f"sizes must be committee sizes in 1 .. {members}, but they are {list(wanted)}.")
    return wanted
