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
        kept = 1 - probability
        layout = torch.channels_last if like.ndim == 4 else torch.contiguous_format
        masks = torch.empty_like(like, memory_format=layout)
        parts = masks.unflatten(1, (len(generators), -1)).unbind(1) if like.ndim == 4 else masks.unbind(0)
        for part, own in zip(parts, generators, strict=True):
            _draw_kept(part, kept, own)
        return masks.div_(kept)

    return draw


def _draw_kept(part: Tensor, kept: float, generator: torch.Generator) -> None:
    """Do what ``part.bernoulli_(kept)`` does, on a CPU in about half the time: compare whole numbers, many at once."""
    if part.device.type != "cpu" or part.numel() < WORTH_IT or not _bits_are_bernoullis():
        part.bernoulli_(kept, generator=generator)
        return
    # Draws come in the order in which the numbers lie in memory: of images channels last.
    ordered = part.permute(0, 2, 3, 1) if part.ndim == 4 else part
    ordered.copy_(_kept(ordered.shape, kept, generator))


def _kept(shape: Sequence[int], kept: float, generator: torch.Generator) -> Tensor:
    bits = torch.empty(shape, dtype=torch.int64).random_(generator=generator)
    return bits.bitwise_and_((1 << FRACTION) - 1) < math.ceil(kept * (1 << FRACTION))


@functools.cache
def _bits_are_bernoullis() -> bool:
    """Say whether this torch makes Bernoulli draws of the bits that we take them for, as 2.11 to 2.15 do."""
    one, other = (torch.Generator().manual_seed(0) for _ in range(2))
    with torch.inference_mode(False):
        return torch.equal(_kept((256,), 0.7, one), torch.empty(256).bernoulli_(0.7, generator=other).bool())
