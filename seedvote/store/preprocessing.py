"""The file of a run's preprocessing: fitted once on its training split, needed for whatever its members are asked."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from seedvote.files import opened
from seedvote.limits import MOST_FEATURES
from seedvote.types import Preprocessing

LARGEST = 4 * MOST_FEATURES * (MOST_FEATURES + 1) + 2**20  # bytes
_MEND = "put a copy of it in its place, or train a run of another name with run="


def content_of(preprocessing: Preprocessing) -> bytes:
    """Return a preprocessing as the content of its file.

    Raises:
        ValueError: it is too large to be read again.
    """
    tensors: dict[str, NDArray[Any]] = {
        "mean": np.ascontiguousarray(preprocessing.mean),
        "factor": np.ascontiguousarray(preprocessing.factor),
        "shape": np.array(preprocessing.shape, np.int64),
    }
    content: bytes = safetensors.numpy.save(tensors)
    if len(content) > LARGEST:
        raise ValueError(f"preprocess takes {len(content)} bytes, more than {LARGEST}: make the samples smaller")
    return content


def read_file(path: Path, sha256: str, input_shape: tuple[int, ...]) -> Preprocessing:
    """Read the file of a preprocessing.

    Raises:
        ValueError: it is absent, is not the one that was written, or does not fit the run's inputs.
    """
    try:
        found = _read(path, sha256)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}; {_MEND}") from error
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a kind of number that NumPy has not
        raise ValueError(f"{path} is damaged: {error}; {_MEND}") from error
    problem = unusable(found, input_shape)
    if problem:
        raise ValueError(f"{path} is damaged: {problem}; {_MEND}")
    return found


def unusable(found: Preprocessing, input_shape: tuple[int, ...]) -> str | None:
    """Say why a preprocessing cannot follow samples of a shape, or ``None``."""
    size, numbers = math.prod(found.shape), math.prod(input_shape)
    factor = (numbers,) if found.factor.ndim == 1 else (size, numbers)
    if found.mean.shape != (numbers,) or found.factor.shape != factor or min(found.shape, default=0) < 1:
        return f"its mean and factor are {found.mean.shape} and {found.factor.shape}, wanted {(numbers,)} and {factor}"
    if found.shape != input_shape and (found.factor.ndim == 1 or found.shape != (size,)):
        return f"it makes samples of shape {found.shape} of those of shape {input_shape}"
    if found.mean.dtype != np.float32 or found.factor.dtype != np.float32:
        return f"its numbers are {found.mean.dtype} and {found.factor.dtype}, wanted float32"
    if not (np.isfinite(found.mean).all() and np.isfinite(found.factor).all()):
        return "it holds numbers that are not finite"
    return None


def _read(path: Path, sha256: str) -> Preprocessing:
    with opened(path) as file:
        # A file may be sparse: its size alone says how much reading it would take.
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise ValueError(f"{path} is damaged: it is larger than {LARGEST} bytes; {_MEND}")
        content = file.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one in run.json; {_MEND}")
    tensors = safetensors.numpy.load(content)
    if set(tensors) != {"mean", "factor", "shape"} or tensors["shape"].dtype != np.int64:
        raise ValueError(f"{path} is damaged: it holds something else than mean, factor and shape; {_MEND}")
    return Preprocessing(tensors["mean"], tensors["factor"], tuple(tensors["shape"].reshape(-1).tolist()))
