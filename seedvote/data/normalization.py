"""Mean and standard deviation of the training split, and their use."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from seedvote.data.checks import chunks
from seedvote.types import Normalization


def measured(inputs: Tensor) -> Normalization:
    """Mean and population standard deviation of ``inputs``, in their raw units, computed in float64.

    ``mean_k = sum x_k / n``, ``std_k = sqrt(sum (x_k - mean_k)^2 / n)``, where ``k`` runs over the channels
    of ``[S, channels, height, width]`` (``n`` counts samples and pixels) or over the features of
    ``[S, features]``. A constant channel or feature gets ``std = 1``, so that it becomes 0 and not NaN.

    The result does not depend on the number of threads: every member would follow it.
    """
    return _measured_integers(inputs) if inputs.dtype == torch.uint8 else _measured_floats(inputs)


def _measured_integers(inputs: Tensor) -> Normalization:
    """Exact sums of integers: ``std^2 = (n sum x^2 - (sum x)^2) / n^2`` cancels nothing in whole numbers."""
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    count = inputs.numel() // inputs.shape[1]
    totals = torch.zeros(inputs.shape[1], dtype=torch.int64)
    squares = torch.zeros_like(totals)
    for chunk in chunks(inputs):
        whole = chunk.to(torch.int64)
        totals += whole.sum(axes)
        squares += whole.square_().sum(axes)
    mean, std = [], []
    for total, square in zip(totals.tolist(), squares.tolist(), strict=True):
        spread = count * square - total * total
        mean.append(total / count)
        std.append(math.sqrt(spread / count**2) if spread else 1.0)
    return Normalization(tuple(mean), tuple(std))


def _measured_floats(inputs: Tensor) -> Normalization:
    """Two passes in NumPy, whose sums, unlike PyTorch's, have one order for any number of threads."""
    axes = tuple(axis for axis in range(inputs.ndim) if axis != 1)
    count = inputs.numel() // inputs.shape[1]
    total = np.zeros(inputs.shape[1])
    for chunk in chunks(inputs):
        total += chunk.numpy().sum(axes, dtype=np.float64)
    mean = total / count
    squares = np.zeros_like(mean)
    lowest, highest = np.full_like(mean, np.inf), np.full_like(mean, -np.inf)
    for chunk in chunks(inputs):
        values = chunk.numpy().astype(np.float64)
        lowest = np.minimum(lowest, values.min(axes))
        highest = np.maximum(highest, values.max(axes))
        squares += np.square(values - mean.reshape(-1, *(1,) * (inputs.ndim - 2))).sum(axes)
    # The mean of equal numbers may be off by an ulp, and the standard deviation of a constant then comes out
    # as 1e-17 instead of 0, which would blow up every value that differs from it.
    std = np.where(lowest == highest, 1.0, np.sqrt(squares / count))
    return Normalization(tuple(mean.tolist()), tuple(std.tolist()))


def unmeasured(inputs: Tensor) -> Normalization:
    """The normalisation for ``normalize=False``: ``uint8`` goes to 0..1, floats stay as they are."""
    channels = inputs.shape[1]
    return Normalization((0.0,) * channels, (255.0 if inputs.dtype == torch.uint8 else 1.0,) * channels)


def normalized(inputs: Tensor, normalization: Normalization, dtype: torch.dtype = torch.float32) -> Tensor:
    """Raw inputs as network inputs, ``(x - mean) / std`` by channel or feature, on the device of ``inputs``.

    inputs: ``[B, channels, height, width]`` or ``[B, features]``, ``uint8`` or float. Returns the same shape
    in ``dtype``.
    """
    mean, std = _constants(normalization, inputs.ndim, dtype, inputs.device)
    return (inputs.to(dtype) - mean) / std


def network_inputs(raw: Tensor, normalization: Normalization, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normalises a batch and gives images the memory layout in which convolutions run fastest.

    raw: ``[B, channels, height, width]`` or ``[B, features]``. Returns the same shape in ``dtype``, images
    channels-last in memory.
    """
    inputs = normalized(raw, normalization, dtype)
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


@functools.lru_cache(maxsize=16)
def _constants(
    normalization: Normalization, axes: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation as tensors, made once: training asks for them at every step."""

    def tensor(numbers: tuple[float, ...]) -> Tensor:
        return torch.tensor(numbers, dtype=dtype, device=device).reshape(-1, *(1,) * (axes - 2))

    # Tensors made under inference_mode could not be used in training afterwards.
    with torch.inference_mode(False):
        return tensor(normalization.mean), tensor(normalization.std)
