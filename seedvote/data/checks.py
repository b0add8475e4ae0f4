"""Refuses data that cannot be trained on, before anything is carved or measured."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from seedvote.types import Source, Split

LONGEST_NAME = 255
CHUNK_ELEMENTS = 2**22  # 32 MiB in float64: large enough to be fast, small enough to need no thought


def chunks(inputs: Tensor) -> Iterator[Tensor]:
    """Yields ``[S, ...]`` in order, some samples at a time, so that no copy of the whole is needed."""
    per_sample = max(1, inputs[:1].numel())
    step = max(1, CHUNK_ELEMENTS // per_sample)
    for start in range(0, len(inputs), step):
        yield inputs[start : start + step]


def checked(source: Source) -> Source:
    """Returns the source with ``uint8`` or ``float32`` inputs and ``int64`` labels.

    Raises ``ValueError``: class names that are fewer than two, no text, or not unique; inputs of another
    dimension or dtype, or not finite; labels that are not integers in ``0 .. C-1`` or not one a sample; an
    empty split; a class without a training sample; test samples of another shape or dtype than in train.
    """
    _check_classes(source.classes)
    train = _checked_split(source.train, "train", source.classes)
    refuse_empty_class(train.labels, source.classes, "the training data")
    if source.test is None:
        return dataclasses.replace(source, train=train)
    test = _checked_split(source.test, "test", source.classes)
    if test.inputs.shape[1:] != train.inputs.shape[1:]:
        raise ValueError(
            f"test samples have shape {tuple(test.inputs.shape[1:])} but training samples have shape "
            f"{tuple(train.inputs.shape[1:])}: bring both splits to the same shape."
        )
    if test.inputs.dtype != train.inputs.dtype:
        raise ValueError(
            f"test inputs are {_dtype_name(test.inputs)} but training inputs are "
            f"{_dtype_name(train.inputs)}: store both splits with the same dtype and range of values."
        )
    return dataclasses.replace(source, train=train, test=test)


def refuse_empty_class(labels: Tensor, classes: tuple[str, ...], where: str) -> None:
    """Raises ``ValueError`` that names the classes without a sample among ``labels`` ``[S]``."""
    counts = torch.bincount(labels, minlength=len(classes))
    empty = [classes[index] for index in torch.nonzero(counts == 0).flatten().tolist()]
    if empty:
        named = ", ".join(repr(name) for name in empty[:5]) + (", ..." if len(empty) > 5 else "")
        raise ValueError(
            f"{len(empty)} of {len(classes)} classes have no sample in {where} ({named}): "
            "every class needs at least one, so add samples or leave the class out."
        )


def is_class_name(name: str) -> bool:
    """Say whether a text can be printed and stored: what steers a terminal, or is no character, has no place in it."""
    steering = any(unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\n" for letter in name)
    return len(name) <= LONGEST_NAME and not steering


def _check_classes(classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise ValueError(f"a classifier needs at least 2 classes, but the data has {len(classes)}: {classes!r}.")
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise ValueError(f"class names must be unique, but {twice[0]!r} is the name of more than one class.")
    strange = [name for name in classes if not is_class_name(name)]
    if strange:
        raise ValueError(
            f"the class name {strange[0][:LONGEST_NAME]!r} holds control characters or bytes that are no UTF-8, or is "
            f"longer than {LONGEST_NAME} characters: give the class another name."
        )


def _checked_split(split: Split, where: str, classes: tuple[str, ...]) -> Split:
    inputs, labels = split.inputs, split.labels
    if inputs.ndim not in (2, 4):
        raise ValueError(
            f"{where} inputs have shape {tuple(inputs.shape)}: wanted [samples, features] for vectors "
            "or [samples, channels, height, width] for images."
        )
    if len(inputs) != len(labels) or labels.ndim != 1:
        raise ValueError(
            f"{where} has {len(inputs)} inputs but labels of shape {tuple(labels.shape)}: wanted one label a sample."
        )
    if len(inputs) == 0:
        raise ValueError(f"the {where} split has no sample: wanted at least one.")
    if inputs[0].numel() == 0:
        raise ValueError(f"{where} samples have shape {tuple(inputs.shape[1:])}, so they hold no number at all.")
    return Split(_checked_inputs(inputs, where), _checked_labels(labels, where, classes))


def _checked_inputs(inputs: Tensor, where: str) -> Tensor:
    if inputs.dtype == torch.uint8:
        return inputs
    if not inputs.is_floating_point():
        raise ValueError(
            f"{where} inputs are {_dtype_name(inputs)}: wanted uint8 (0 to 255, raw images) or float32; "
            "convert them before you save them."
        )
    inputs = inputs.to(torch.float32)
    bad = sum(int((~torch.isfinite(chunk)).flatten(1).any(1).sum()) for chunk in chunks(inputs))
    if bad:
        raise ValueError(
            f"{bad} of {len(inputs)} {where} samples hold NaN or infinite numbers (as float32): "
            "remove these samples or fill in the missing values."
        )
    return inputs


def _checked_labels(labels: Tensor, where: str, classes: tuple[str, ...]) -> Tensor:
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"{where} labels are {_dtype_name(labels)}: wanted integers, class indices from 0 to {len(classes) - 1}."
        )
    labels = labels.to(torch.int64)
    outside = torch.nonzero((labels < 0) | (labels >= len(classes))).flatten()
    if len(outside):
        position = int(outside[0])
        raise ValueError(
            f"label {int(labels[position])} at position {position} of {where} is outside 0 .. "
            f"{len(classes) - 1} ({len(outside)} such labels): labels are class indices, counted from 0."
        )
    return labels


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
