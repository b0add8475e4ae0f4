"""Accuracy against the size of the committee: what a vote of k of the M members can be expected to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from seedvote.stats.arrays import Booleans, Floats, Integers, checked_rows, checked_shares, checked_targets
from seedvote.stats.subset_votes import subsets_right

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


@dataclass(frozen=True, eq=False)
class Grid:
    """The committees behind a curve of ``members``: sizes, and for each of them positions of members ``[T, k]``."""

    sizes: tuple[int, ...]
    sets: tuple[Integers, ...]
    members: int

    @property
    def committees(self) -> list[Integers]:
        """All of them, size after size."""
        return [row for group in self.sets for row in group]


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
    values = checked_rows(probabilities, true)
    grid = subset_grid(np.arange(len(values)), sizes, subsets, seed)
    return curve_of(grid, subsets_right(grid.committees, values, true))


def subset_grid(kept: Integers, sizes: Sequence[int] | None, subsets: int = SUBSETS, seed: int = 0) -> Grid:
    """The committees of a curve: for each size all of the kept members' where there are at most ``subsets``.

    Otherwise that many distinct ones at random. kept: positions of members. sizes: default ``committee_sizes``.
    Raises ``ValueError`` for sizes outside 1 .. M and for no subsets.
    """
    wanted = checked_sizes(sizes, len(kept))
    return Grid(wanted, tuple(kept[group] for group in _all_subsets(len(kept), wanted, subsets, seed)), len(kept))


def curve_of(grid: Grid, right: Floats | Booleans) -> Curve:
    """The curve of a grid from whether each of its committees was right on each sample, ``[R, S]``."""
    parts = np.split(right, np.cumsum([len(group) for group in grid.sets])[:-1])
    accuracies = [part.mean(axis=1) for part in parts]
    return Curve(
        grid.members,
        np.array(grid.sizes, dtype=np.int64),
        np.array([values.mean() for values in accuracies]),
        tuple(float(values.std(ddof=1)) if len(values) > 1 else None for values in accuracies),
        tuple(len(group) for group in grid.sets),
        all(len(group) == comb(grid.members, size) for group, size in zip(grid.sets, grid.sizes, strict=True)),
        np.stack([part.mean(axis=0) for part in parts]),
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
    grid = subset_grid(np.arange(members), sizes, subsets, seed)
    answers = [np.asarray(vote_correct(chosen)) for chosen in grid.committees]
    return curve_of(grid, np.stack([checked_shares("vote_correct", each, answers[0].shape) for each in answers]))


def worthwhile(curve: Curve, *, tolerance: float = 0.001) -> int:
    """Smallest committee whose expected accuracy is within ``tolerance`` (default 0.1 points) of that of the largest.

    Choose the size on validation data; on test data this describes and must not select.
    """
    good = curve.accuracy >= curve.accuracy[-1] - tolerance - 1e-12
    return int(curve.sizes[int(good.argmax())])


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


def checked_sizes(sizes: Sequence[int] | None, members: int) -> tuple[int, ...]:
    """Ascending committee sizes, default ``committee_sizes``; ``ValueError`` unless they lie in 1 .. M."""
    wanted = committee_sizes(members) if sizes is None else tuple(sorted({int(size) for size in sizes}))
    if not wanted or wanted[0] < 1 or wanted[-1] > members:
        raise ValueError(f"sizes must be committee sizes in 1 .. {members}, but they are {list(wanted)}.")
    return wanted
