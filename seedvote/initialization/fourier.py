"""Convolution-aware initialisation: kernels that are orthogonal in Fourier space."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import init

from seedvote.initialization.schemes import weights_within


def convolution_aware(
    module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator, *, noise: float = 0.05
) -> None:
    """Draw the kernels of each filter orthogonal to one another in Fourier space, of mean square ``2 / fan_in``.

    A kernel is the inverse Fourier transform of a real spectrum and therefore even: the same at ``x`` and at ``-x``,
    counted modulo its sides. So only ``d`` of them can be orthogonal (5 of 3x3, 13 of 5x5); a filter with more inputs
    gets several such bases. noise: SD of the normal noise that then breaks the symmetry, as a fraction of the
    kernels' root mean square. Weights without a kernel (linear layers, 1x1) get an orthogonal matrix of the same mean
    square.

    Source: Aghajanyan, "Convolution Aware Initialization", 2017 (arXiv:1702.06295).

    Raises:
        ValueError: noise is negative, or the tensor has fewer than two axes.
    """
    if noise < 0:
        raise ValueError(f"noise must be at least 0, got {noise}")
    weights = list(weights_within(module, name, tensor))
    out, inputs, *kernel = weights[0].shape
    if math.prod(kernel) == 1:
        matrices = [torch.empty(weight.shape, dtype=weight.dtype) for weight in weights]
        drawn = torch.stack([init.orthogonal_(matrix, generator=generator) for matrix in matrices])
    else:
        # All groups in one go: a depthwise convolution has hundreds of them.
        drawn = _orthogonal_kernels(len(weights) * out, inputs, kernel, tensor.dtype, generator)
        drawn = drawn.reshape(len(weights), out, inputs, *kernel)
        size = drawn.square().mean().sqrt()
        drawn += noise * size * torch.randn(drawn.shape, dtype=tensor.dtype, generator=generator)
    sizes = drawn.square().flatten(1).mean(1).sqrt().tolist()
    for weight, own, size_now in zip(weights, drawn, sizes, strict=True):
        weight.copy_(own * (math.sqrt(2 / (inputs * math.prod(kernel))) / size_now))


def _orthogonal_kernels(
    out: int, inputs: int, kernel: Sequence[int], dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """Return ``[out, in, *kernel]``; of each filter's kernels, ``d`` after ``d`` are orthonormal."""
    spectra = _even_spectra(tuple(kernel)).to(dtype)
    dimensions = len(spectra)
    bases = math.ceil(inputs / dimensions)
    # The Q of a normal matrix, signs made unique, is uniform over the orthogonal matrices (Mezzadri, 2007).
    normal = torch.randn(out, bases, dimensions, dimensions, dtype=dtype, generator=generator)
    q, r = torch.linalg.qr(normal)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    coefficients = q.reshape(out, bases * dimensions, dimensions)[:, :inputs]
    spectrum = (coefficients @ spectra).reshape(out, inputs, *kernel)
    axes = tuple(range(2, 2 + len(kernel)))
    kernels: Tensor = torch.fft.ifftn(spectrum, dim=axes, norm="ortho").real.contiguous()
    return kernels


@functools.lru_cache(maxsize=16)
def _even_spectra(kernel: tuple[int, ...]) -> Tensor:
    """Return an orthonormal basis ``[d, prod(kernel)]`` of the real spectra that belong to real kernels.

    Such a spectrum has the same value at a frequency and at its negative.
    """
    frequencies = list(itertools.product(*(range(side) for side in kernel)))
    rows = []
    for place, frequency in enumerate(frequencies):
        negative = frequencies.index(tuple(-part % side for part, side in zip(frequency, kernel, strict=True)))
        if place <= negative:
            row = torch.zeros(len(frequencies), dtype=torch.float64)
            row[[place, negative]] = 1.0 if place == negative else math.sqrt(0.5)
            rows.append(row)
    return torch.stack(rows)
