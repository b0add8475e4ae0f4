"""What is fitted on the training split and follows normalisation: centring, scaling, principal components, whitening.

Each function here is a ``_target_`` for ``preprocess``: it looks at the training samples and returns an affine map,
which is stored with the run. Augmentation comes before it: a changed picture imitates another picture, and whatever
the network sees, in training or later, went through the same map last.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from seedvote.data.checks import chunks
from seedvote.data.normalization import network_inputs, normalized
from seedvote.limits import MOST_FEATURES
from seedvote.types import Data, Normalization, Preprocessing

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingSamples:
    """The training split as ``data.normalize`` leaves it; iterating yields ``[B, D]``, float64, some samples at a time.

    inputs: raw, ``[S, ...]``.
    """

    inputs: Tensor
    normalization: Normalization

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, of ``D`` numbers."""
        return tuple(self.inputs.shape[1:])

    def __iter__(self) -> Iterator[Floats]:
        """Go through the split in its own order."""
        for chunk in chunks(self.inputs):
            yield normalized(chunk, self.normalization, torch.float64).flatten(1).numpy()


def fitted(fit: Callable[[TrainingSamples], Any], data: Data) -> Preprocessing | None:
    """Fit a preprocessing on the training split alone; the result does not depend on the number of threads.

    Raises:
        ValueError: ``fit`` returns something else than a ``Preprocessing`` or ``None``, or fails on the data.
    """
    try:
        with threadpool_limits(1):
            found = fit(TrainingSamples(data.train.inputs, data.normalization))
    except ValueError:
        raise
    except Exception as error:  # of a user's own function
        raise ValueError(f"preprocess fails on the training split: {type(error).__name__}: {error}") from error
    if found is not None and not isinstance(found, Preprocessing):
        raise ValueError(
            f"preprocess._target_ must return a seedvote.types.Preprocessing or None, got {type(found).__name__}"
        )
    return found


def preprocessed(inputs: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    """Normalised inputs ``[B, ...]`` as network inputs, in their own dtype and on their device.

    ``factor (x - mean)`` for each flattened sample; images are channels-last in memory, as convolutions like them.
    """
    if preprocessing is None:
        return inputs
    centre, factor = _constants(preprocessing, inputs.dtype, inputs.device)
    centred = inputs.flatten(1) - centre
    changed = centred * factor if factor.ndim == 1 else centred @ factor.T
    changed = changed.reshape(len(inputs), *preprocessing.shape)
    return changed.contiguous(memory_format=torch.channels_last) if changed.ndim == 4 else changed


def evaluation_inputs(raw: Tensor, data: Data, dtype: torch.dtype = torch.float32) -> Tensor:
    """Raw samples ``[B, ...]`` as a network gets them in evaluation: normalised, then preprocessed."""
    return preprocessed(network_inputs(raw, data.normalization, dtype), data.preprocessing)


def training_inputs(
    raw: Tensor,
    data: Data,
    augment: Callable[[Tensor, np.random.Generator], Tensor],
    generator: np.random.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Raw samples ``[B, ...]`` as a network gets them in training: normalised, augmented, then preprocessed."""
    augmented = augment(network_inputs(raw, data.normalization, dtype), generator)
    return preprocessed(augmented, data.preprocessing)


def none(samples: TrainingSamples) -> None:
    """Leave the inputs as ``data.normalize`` makes them."""


def mean(samples: TrainingSamples) -> Preprocessing:
    """Subtract the mean of each pixel or feature: ``x - m``."""
    average = _mean(samples)
    return Preprocessing(average.astype(np.float32), np.ones(len(average), np.float32), samples.shape)


def standardize(samples: TrainingSamples) -> Preprocessing:
    """Give each pixel or feature mean 0 and variance 1: ``(x_d - m_d) / s_d``; constant ones become 0.

    ``s_d`` is the population standard deviation.
    """
    average = _mean(samples)
    squares, count = np.zeros_like(average), 0
    lowest, highest = np.full_like(average, np.inf), np.full_like(average, -np.inf)
    for batch in samples:
        squares += np.square(batch - average).sum(0)
        count += len(batch)
        lowest, highest = np.minimum(lowest, batch.min(0)), np.maximum(highest, batch.max(0))
    # What is constant may have a mean that is off by an ulp, and must not be divided by that.
    constant = (lowest == highest) | (squares == 0)
    deviation = np.where(constant, 1.0, np.sqrt(squares / count))
    return Preprocessing(average.astype(np.float32), (1 / deviation).astype(np.float32), samples.shape)


def pca(samples: TrainingSamples, components: int | float | None = None) -> Preprocessing:
    """Turn each sample into its first ``K`` principal components: ``V^T (x - m)``, ``[K]`` (Pearson, 1901).

    components: ``K``, or the fraction of the variance that is to be kept; ``None`` keeps all that vary. The largest
    entry of each component's direction is positive, so that its sign is defined.

    Raises:
        ValueError: ``components`` is neither, or more than vary, or samples have more than ``MOST_FEATURES`` numbers.
    """
    average, variances, directions = _principal(samples)
    count = _count(components, variances)
    return Preprocessing(average.astype(np.float32), directions[:count].astype(np.float32), (count,))


def pca_whitening(
    samples: TrainingSamples, components: int | float | None = None, epsilon: float = 0.1
) -> Preprocessing:
    """Scale the first ``K`` principal components to variance 1: ``(L + epsilon)^(-1/2) V^T (x - m)``, ``[K]``.

    ``L`` are the components' variances. components: as in ``pca``. epsilon: variance below which directions are taken
    for noise and are not blown up to the size of the others; 0 whitens exactly.

    Raises:
        ValueError: as ``pca``, or ``epsilon`` is below 0.
    """
    average, variances, directions = _principal(samples)
    count = _count(components, variances)
    scales = _scales(variances[:count], epsilon)
    return Preprocessing(average.astype(np.float32), (scales * directions[:count]).astype(np.float32), (count,))


def zca_whitening(samples: TrainingSamples, epsilon: float = 0.1) -> Preprocessing:
    """Decorrelate pixels or features, changing them least: ``V (L + epsilon)^(-1/2) V^T (x - m)`` (Bell, 1997).

    Images stay images. epsilon: as in ``pca_whitening``. Directions that do not vary become 0.

    Raises:
        ValueError: ``epsilon`` is below 0, or samples have more than ``MOST_FEATURES`` numbers.
    """
    average, variances, directions = _principal(samples)
    matrix = directions.T @ (_scales(variances, epsilon) * directions)
    return Preprocessing(average.astype(np.float32), matrix.astype(np.float32), samples.shape)


def _mean(samples: TrainingSamples) -> Floats:
    total, count = np.zeros(math.prod(samples.shape)), 0
    for batch in samples:
        total += batch.sum(0)
        count += len(batch)
    return total / count


def _principal(samples: TrainingSamples) -> tuple[Floats, Floats, Floats]:
    """Mean ``[D]``, variances ``[R]`` in falling order and directions ``[R, D]`` of the components that vary at all."""
    size = math.prod(samples.shape)
    if size > MOST_FEATURES:
        raise ValueError(
            f"preprocess wants the covariance of samples of shape {list(samples.shape)}, {size} numbers each, and can "
            f"do that for {MOST_FEATURES} at most: make them smaller (data.size), or set preprocess=standardize"
        )
    average, covariance, count = _mean(samples), np.zeros((size, size)), 0
    for batch in samples:
        centred = batch - average
        covariance += centred.T @ centred
        count += len(batch)
    variances, directions = np.linalg.eigh(covariance / count)
    variances, directions = variances[::-1], directions.T[::-1]
    # What rounding makes of a variance of 0, as numpy.linalg.matrix_rank has it.
    real = variances > variances[0] * max(size, count) * np.finfo(np.float64).eps
    if not real.any():
        raise ValueError("preprocess finds nothing to whiten: all training samples are the same")
    variances, directions = variances[real], directions[real]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    return average, variances, directions * np.sign(largest)


def _count(components: int | float | None, variances: Floats) -> int:
    if components is None:
        return len(variances)
    if isinstance(components, bool) or not (0 < components < 1 or components in range(1, len(variances) + 1)):
        raise ValueError(
            f"preprocess.components must be a whole number from 1 to {len(variances)}, of how many components vary, "
            f"or a fraction of the variance above 0 and below 1, or null for all, got {components!r}"
        )
    if components >= 1:
        return int(components)
    kept = np.cumsum(variances) / variances.sum()
    return min(int(np.searchsorted(kept, components, side="right")) + 1, len(variances))


def _scales(variances: Floats, epsilon: float) -> Floats:
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"preprocess.epsilon must be at least 0, got {epsilon}")
    return 1 / np.sqrt(variances + epsilon)[:, None]


@functools.lru_cache(maxsize=4)
def _constants(preprocessing: Preprocessing, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and factor as tensors, made once: training asks for them at every step."""
    # Tensors made under inference_mode could not be used in training afterwards.
    with torch.inference_mode(False):
        parts = (preprocessing.mean, preprocessing.factor)
        centre, factor = (torch.from_numpy(np.array(part)).to(device, dtype) for part in parts)
    return centre, factor
