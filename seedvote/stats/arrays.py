"""What the statistics accept: checks of arrays, and the names of their types."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

CHUNK_ELEMENTS = 2**22  # 32 MiB of float64 for each temporary array, whatever the number of samples
_ROW_SUM_TOLERANCE = 1e-4  # float32 rounding over a thousand classes stays below it; logits do not


def checked_targets(targets: ArrayLike) -> Integers:
    """True classes ``[S]``; ``ValueError`` unless they are non-negative integers, at least one."""
    values = np.asarray(targets)
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iu" or values.min() < 0:
        raise ValueError(
            "targets must be class indices of shape [samples], at least one and none negative, "
            f"but they are {values.dtype} of shape {list(values.shape)}."
        )
    return values.astype(np.int64)


def checked_labels(labels: ArrayLike, targets: Integers | None = None) -> Integers:
    """Members' decisions ``[M, S]``; ``ValueError`` unless they are integers that fit the targets."""
    values = np.asarray(labels)
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "iu":
        raise ValueError(
            "labels must be class indices of shape [members, samples] with at least one of each, "
            f"but they are {values.dtype} of shape {list(values.shape)}."
        )
    if targets is not None and values.shape[1] != len(targets):
        raise ValueError(f"labels are for {values.shape[1]} samples, but there are {len(targets)} targets.")
    return values.astype(np.int64)


def checked_decisions(name: str, labels: ArrayLike, samples: int) -> Integers:
    """Decisions ``[S]``; ``ValueError`` unless they are integers, one for each sample."""
    values = np.asarray(labels)
    if values.shape != (samples,) or values.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be {samples} class indices, one for each sample, "
            f"but they are {values.dtype} of shape {list(values.shape)}."
        )
    return values.astype(np.int64)


def checked_correct(correct: ArrayLike) -> Booleans:
    """Whether each member is right, ``[M, S]``; ``ValueError`` unless it is a matrix of truth values (or 0, 1)."""
    values = np.asarray(correct)
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "biuf":
        raise ValueError(
            "correct must be truth values of shape [members, samples] with at least one of each, "
            f"but they are {values.dtype} of shape {list(values.shape)}."
        )
    right: Booleans = values == 1
    if values.dtype.kind != "b" and not (right | (values == 0)).all():
        raise ValueError("correct must hold truth values, or 0 and 1, but it holds other numbers.")
    return right


def checked_shares(name: str, correct: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """How right a vote is, in 0 .. 1 (a fraction where ties are split); ``ValueError`` for anything else."""
    values = np.asarray(correct)
    if values.shape != shape or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be truth values or fractions of shape {list(shape)}, "
            f"but they are {values.dtype} of shape {list(values.shape)}."
        )
    shares = values.astype(np.float64)
    # Written so that a NaN fails. Fractions such as 1/3 summed over subsets may pass 1 by a rounding error.
    if not ((shares >= 0) & (shares <= 1 + 1e-9)).all():
        raise ValueError(f"{name} must lie in 0 .. 1: True where the vote is right, a fraction where ties are split.")
    return shares


def checked_probabilities(probabilities: ArrayLike, targets: Integers | None = None) -> Floats:
    """Probabilities ``[S, C]`` in float64; ``ValueError`` unless rows sum to 1 and fit the targets."""
    values = np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            "probabilities must have shape [samples, classes] with at least one of each, "
            f"but they have shape {list(values.shape)}."
        )
    gaps = np.abs(values.sum(axis=1) - 1)
    # Written so that a NaN fails.
    if not (values.min() >= 0 and gaps.max() <= _ROW_SUM_TOLERANCE):
        good = (values >= 0).all(axis=1) & (gaps <= _ROW_SUM_TOLERANCE)
        raise ValueError(
            f"probabilities must be non-negative and sum to 1 for each sample, but sample "
            f"{np.flatnonzero(~good)[0]} is otherwise: apply a softmax if these are logits."
        )
    if targets is not None and (len(targets) != len(values) or targets.max() >= values.shape[1]):
        raise ValueError(
            f"targets must be {len(values)} classes in 0 .. {values.shape[1] - 1} to fit the probabilities, "
            f"but there are {len(targets)}, up to {targets.max()}."
        )
    return values


def checked_members(probabilities: ArrayLike, targets: Integers | None = None) -> NDArray[np.generic]:
    """Members' probabilities ``[M, S, C]``, left as they are: ``member_chunks`` checks them as it goes."""
    values = np.asarray(probabilities)
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "fiu":
        raise ValueError(
            "probabilities must have shape [members, samples, classes] with at least one of each, "
            f"but they are {values.dtype} of shape {list(values.shape)}."
        )
    if targets is not None and (len(targets) != values.shape[1] or targets.max() >= values.shape[2]):
        raise ValueError(
            f"targets must be {values.shape[1]} classes in 0 .. {values.shape[2] - 1} to fit the probabilities, "
            f"but there are {len(targets)}, up to {targets.max()}."
        )
    return values


def checked_rows(probabilities: ArrayLike, targets: Integers | None = None) -> NDArray[np.generic]:
    """``checked_members`` that also checks at once that all rows are probabilities."""
    values = checked_members(probabilities, targets)
    for member in values:
        checked_probabilities(member)
    return values


def member_chunks(probabilities: NDArray[np.generic]) -> Iterator[tuple[slice, Floats]]:
    """Cut ``[M, S, C]`` along the samples, each piece in float64, so that no copy of it all is made."""
    members, samples, classes = probabilities.shape
    step = max(1, CHUNK_ELEMENTS // (members * classes))
    for start in range(0, samples, step):
        piece = slice(start, min(start + step, samples))
        values = probabilities[:, piece].astype(np.float64)
        checked_probabilities(values.reshape(-1, classes))
        yield piece, values
