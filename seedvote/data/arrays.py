"""Labelled samples from a ``.npz`` file."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seedvote.data.archive import opened
from seedvote.types import Source, Split

SPLIT_NAMES = ("train_inputs", "train_labels", "test_inputs", "test_labels")
WHOLE_NAMES = ("inputs", "labels")


def arrays(file: str) -> Source:
    """Labelled samples from a ``.npz`` file.

    It holds ``train_inputs, train_labels, test_inputs, test_labels``, or ``inputs, labels`` without an
    official test split. Inputs are vectors ``[S, features]`` or images ``[S, channels, height, width]``
    (``[S, height, width]`` is taken as images of one channel), ``uint8`` (0 to 255) or floats (made
    ``float32``); labels are integers from 0. ``classes``, an array of strings, names the classes; without it
    they are ``'0'`` to the highest training label. Nothing is unpickled, and nothing is allocated before its
    size is known to fit.

    Raises ``ValueError`` for a file that is missing, damaged, too large or lacks an array, and for arrays of
    another kind or shape.
    """
    archive = opened(file)
    halves = [name for name in SPLIT_NAMES if name in archive.headers]
    if halves and any(name in archive.headers for name in WHOLE_NAMES):
        raise ValueError(
            f"{archive.path!r} holds both {halves[0]!r} and {'/'.join(WHOLE_NAMES)}: keep either the four "
            "arrays train_inputs, train_labels, test_inputs, test_labels or the two arrays inputs, labels."
        )
    names = SPLIT_NAMES if halves else WHOLE_NAMES
    contents = archive.read([*names, "classes"] if "classes" in archive.headers else list(names))
    splits = [
        _split(contents[inputs], contents[labels], inputs, labels, archive.path)
        for inputs, labels in zip(names[::2], names[1::2], strict=True)
    ]
    classes = _classes(contents.get("classes"), splits[0].labels, archive.path)
    return Source(splits[0], splits[1] if len(splits) == 2 else None, classes)


def images_or_vectors(values: NDArray[Any], name: str, path: str) -> Tensor:
    """An array of inputs as ``[S, features]`` or ``[S, channels, height, width]``, ``uint8`` or ``float32``.

    Raises ``ValueError`` for other dimensions, channels in the last place, integers other than ``uint8``, NaN
    and infinities, samples without a number.
    """
    if values.ndim == 3:
        values = values[:, np.newaxis]
    if values.ndim == 4 and values.shape[3] in (1, 3) and values.shape[1] not in (1, 3):
        raise ValueError(
            f"{name!r} in {path!r} has shape {values.shape}, which looks like channels in the last place: "
            f"save {name}.transpose(0, 3, 1, 2), so that it becomes [samples, channels, height, width]."
        )
    if values.ndim not in (2, 4):
        raise ValueError(
            f"{name!r} in {path!r} has shape {values.shape}: wanted [samples, features], "
            "[samples, height, width] or [samples, channels, height, width]."
        )
    if values.size == 0 and len(values):
        raise ValueError(f"{name!r} in {path!r} has shape {values.shape}: its samples hold no number at all.")
    if values.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(values))
    if values.dtype.kind != "f":
        raise ValueError(
            f"{name!r} in {path!r} is {values.dtype}: wanted uint8 (0 to 255, raw images) or float32; "
            "convert it before you save it."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    finite = torch.isfinite(tensor).flatten(1).all(1)
    if not finite.all():
        raise ValueError(
            f"{int((~finite).sum())} of {len(finite)} samples of {name!r} in {path!r} hold NaN or infinite "
            "numbers (as float32): remove these samples or fill in the missing values."
        )
    return tensor


def class_indices(values: NDArray[Any], name: str, samples: int, path: str) -> Tensor:
    """An array of labels as ``int64`` ``[S]``; raises ``ValueError`` unless it holds one integer a sample."""
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name!r} in {path!r} is {values.dtype}: wanted integers, class indices from 0.")
    if values.shape != (samples,):
        raise ValueError(
            f"{name!r} in {path!r} has shape {values.shape}, but there are {samples} inputs: wanted one label a sample."
        )
    return torch.from_numpy(values.astype(np.int64))


def _split(inputs: NDArray[Any], labels: NDArray[Any], inputs_name: str, labels_name: str, path: str) -> Split:
    tensor = images_or_vectors(inputs, inputs_name, path)
    return Split(tensor, class_indices(labels, labels_name, len(tensor), path))


def _classes(names: NDArray[Any] | None, labels: Tensor, path: str) -> tuple[str, ...]:
    if names is None:
        highest = int(labels.max()) if len(labels) else -1
        if highest >= len(labels):
            raise ValueError(
                f"the highest training label in {path!r} is {highest} but there are only {len(labels)} "
                "training samples: labels are class indices, counted from 0 without gaps."
            )
        return tuple(str(index) for index in range(highest + 1))
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise ValueError(
            f"'classes' in {path!r} has dtype {names.dtype} and shape {names.shape}: wanted a list of strings."
        )
    if names.dtype.kind == "U" and not _is_text(names):
        raise ValueError(f"'classes' in {path!r} holds numbers that are no characters: save a list of strings.")
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names.tolist())


def _is_text(strings: NDArray[np.str_]) -> bool:
    """Say whether all code points are characters: NumPy would make strings of others that Python cannot handle."""
    codes = np.frombuffer(strings.tobytes(), np.uint32)
    return not bool(((codes > sys.maxunicode) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any())
