"""Dropout's factors for stacked members, each member's from a generator of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FRACTION = 53  # bits of a float64's fraction: torch compares so many random ones with the probability
WORTH_IT = 4096  # numbers, below which three quick operations take longer than one slow one (measured)


def dropout_masks(numbers: Sequence[int], device: torch.device) -> Callable[[Tensor, float], Tensor]:
    """Return what draws dropout's factors (0 or 1 / (1 - p)) for each member from a generator of its own.

    numbers: one seed for each member. The draws are those that ``torch.nn.Dropout`` makes for a member alone whose
    global generator is seeded with its number.
    """
    generators = [torch.Generator(device).manual_seed(number) for number in numbers]

    def draw(like: Tensor, probability: float) -> Tensor:
        # Draws come in the order in which a member's numbers lie in memory: of images channels last.
        channels = like.shape[1] // len(generators)
        shape = (like.shape[0], *like.shape[2:], channels) if like.ndim == 4 else like.shape[1:]
        kept = _kept(shape, 1 - probability, generators, like.dtype)
        if like.ndim == 4:
            kept = kept.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)
        return kept.div_(1 - probability)

    return draw


def _kept(shape: Sequence[int], kept: float, generators: Sequence[torch.Generator], dtype: torch.dtype) -> Tensor:
    """Draw zeros and ones ``[G, *shape]``, a member's as ``bernoulli_(kept)`` draws them from its generator.

    On a CPU it takes two thirds of the time: whole numbers are compared, many at once.
    """
    device = generators[0].device
    if device.type != "cpu" or math.prod(shape) < WORTH_IT or not _bits_are_bernoullis():
        drawn = torch.empty(len(generators), *shape, dtype=dtype, device=device)
        for part, own in zip(drawn, generators, strict=True):
            part.bernoulli_(kept, generator=own)
        return drawn
    return _compared(shape, kept, generators).to(dtype)


def _compared(shape: Sequence[int], kept: float, generators: Sequence[torch.Generator]) -> Tensor:
    bits = torch.empty(len(generators), *shape, dtype=torch.int64)
    for part, own in zip(bits, generators, strict=True):
        part.random_(generator=own)
    return bits.bitwise_and_((1 << FRACTION) - 1) < math.ceil(kept * (1 << FRACTION))


@functools.cache
def _bits_are_bernoullis() -> bool:
    """Say whether this torch makes Bernoulli draws of the bits that we take them for, as 2.11 to 2.15 do."""
    one, other = (torch.Generator().manual_seed(0) for _ in range(2))
    with torch.inference_mode(False):
        return torch.equal(_compared((256,), 0.7, [one])[0], torch.empty(256).bernoulli_(0.7, generator=other).bool())
