"""From what a data set offers to splits that stay as they are."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from numpy.typing import NDArray

from seedvote.data.checks import checked, chunks, refuse_empty_class
from seedvote.data.normalization import measured, normalized, unmeasured
from seedvote.data.on_disk import mapped, too_large
from seedvote.types import Data, Source, Split

__all__ = ["normalized", "prepare"]

Positions = NDArray[np.int64]


def prepare(
    source: Source,
    *,
    name: str,
    split_seed: int,
    validation: float,
    test: float | None,
    limit: int | None,
    normalize: bool,
) -> Data:
    """Carves validation (and test, where there is no official one) and measures the normalisation.

    validation, test: fractions of the whole that the source offers as training data; ``test`` is used only
    where ``source.test`` is ``None``. Splits are stratified by label and follow ``split_seed`` alone; the
    test split does not depend on ``validation``. limit: at most so many samples of each split, to try things
    out. Mean and standard deviation come from the (limited) training split alone. A split that takes more than
    a quarter of the memory is mapped from a file in ``source.scratch``, if there is one.

    Raises ``ValueError`` for data that cannot be trained on (see ``checks.checked``), fractions outside 0..1
    or too large together, and classes with too few samples to be in every split.
    """
    _check_arguments(source, split_seed, validation, test, limit)
    source = checked(source)
    classes, whole = source.classes, len(source.train)
    labels = source.train.labels.numpy()
    rest = np.arange(whole, dtype=np.int64)
    test_split = source.test
    if test_split is None:
        assert test is not None
        rest, taken = _carve(rest, labels, "test", test, split_seed, classes)
        test_split = _take(source.train, _limited(taken, labels, limit, split_seed), source.scratch)
    elif limit is not None:
        everything = np.arange(len(test_split), dtype=np.int64)
        chosen = _limited(everything, test_split.labels.numpy(), limit, split_seed)
        test_split = _take(test_split, chosen, source.scratch)
    rest, taken = _carve(rest, labels, "validation", validation, split_seed, classes)
    refuse_empty_class(source.train.labels[torch.from_numpy(rest)], classes, "the training split")
    validation_split = _take(source.train, _limited(taken, labels, limit, split_seed), source.scratch)
    train_split = _take(source.train, _limited(rest, labels, limit, split_seed), source.scratch)
    return Data(
        name=name,
        train=train_split,
        validation=validation_split,
        test=test_split,
        classes=classes,
        normalization=measured(train_split.inputs) if normalize else unmeasured(train_split.inputs),
        fingerprint=_fingerprint(classes, (train_split, validation_split, test_split)),
        sample=limit is not None,
        scratch=source.scratch if too_large(train_split.inputs, len(train_split)) else None,
    )


def _check_arguments(source: Source, split_seed: int, validation: float, test: float | None, limit: int | None) -> None:
    if not 0 <= split_seed < 2**32:
        raise ValueError(f"split_seed={split_seed} is outside 0 .. 4294967295: choose a seed in this range.")
    if not 0 < validation < 1:
        raise ValueError(f"data.validation={validation} is no fraction between 0 and 1: 0.1 holds out 10 %.")
    if limit is not None and limit < 1:
        raise ValueError(f"data.limit={limit} leaves no sample: give a number of samples, or null for all.")
    if source.test is not None:
        return
    if test is None:
        raise ValueError(
            "the data has no official test split and data.test is null: "
            "set data.test to the fraction to hold out for testing, such as data.test=0.2."
        )
    if not 0 < test < 1:
        raise ValueError(f"data.test={test} is no fraction between 0 and 1: 0.2 holds out 20 %.")
    if test + validation >= 1:
        raise ValueError(
            f"data.test={test} and data.validation={validation} leave nothing to train on: "
            "both are fractions of the whole, so their sum must stay below 1."
        )


def _carve(
    positions: Positions,
    labels: NDArray[np.int64],
    split: str,
    fraction: float,
    split_seed: int,
    classes: tuple[str, ...],
) -> tuple[Positions, Positions]:
    """Parts ``positions`` into (rest, taken), both sorted; taken holds ``fraction`` of all ``labels``."""
    kept = labels[positions]
    count = int(fraction * len(labels) + 0.5)
    present, sizes = np.unique(kept, return_counts=True)
    where = f"cannot hold out data.{split}={fraction} of {len(labels)} samples"
    if sizes.min() < 2:
        scarce = present[sizes.argmin()]
        raise ValueError(
            f"{where}: class {classes[scarce]!r} has only {sizes.min()} sample left to divide and needs "
            "at least 2, so add samples or leave the class out."
        )
    if count < len(present) or len(kept) - count < len(present):
        raise ValueError(
            f"{where}: {count} samples to hold out and {max(0, len(kept) - count)} to keep must each be at "
            f"least as many as the {len(present)} classes, so change data.{split} or add samples."
        )
    return _divided(positions, count, kept, split_seed)


def _limited(positions: Positions, labels: NDArray[np.int64], limit: int | None, split_seed: int) -> Positions:
    """At most ``limit`` of the positions, stratified where scikit-learn can, else plain random."""
    if limit is None or limit >= len(positions):
        return positions
    kept = labels[positions]
    present, sizes = np.unique(kept, return_counts=True)
    possible = limit >= len(present) and len(kept) - limit >= len(present) and sizes.min() >= 2
    _, chosen = _divided(positions, limit, kept if possible else None, split_seed)
    return chosen


def _divided(
    positions: Positions, count: int, strata: NDArray[np.int64] | None, split_seed: int
) -> tuple[Positions, Positions]:
    """Parts ``positions`` into (rest, taken) with ``count`` of them taken, each in ascending order."""
    from sklearn.model_selection import train_test_split

    rest, taken = train_test_split(positions, test_size=count, stratify=strata, random_state=split_seed)
    return np.sort(rest), np.sort(taken)


def _take(split: Split, positions: Positions, scratch: str | None) -> Split:
    index = torch.from_numpy(positions)
    labels = split.labels.index_select(0, index)
    if scratch is not None and too_large(split.inputs, len(index)):
        return Split(mapped(split.inputs, index, scratch), labels)
    return Split(split.inputs.index_select(0, index), labels)


def _fingerprint(classes: tuple[str, ...], splits: tuple[Split, Split, Split]) -> str:
    """SHA-256 of what the members see, wherever the files lie that it came from."""
    digest = hashlib.sha256(json.dumps(classes).encode())
    for split in splits:
        for tensor in (split.inputs, split.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            for chunk in chunks(tensor):
                digest.update(chunk.contiguous().numpy().data)
    return digest.hexdigest()
