"""Random changes to training images, drawn for each sample from the member's ``augment`` stream.

Every function works on normalised inputs ``[B, channels, height, width]`` on any device. The draws are made on
the CPU with NumPy, so a GPU member sees the same changes as a CPU member. What a change moves in from outside the
image is zero, which after normalisation is the mean colour of the training split.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def none(inputs: Tensor, generator: np.random.Generator) -> Tensor:
    """Return the inputs as they are."""
    return inputs


def is_none(augment: Callable[..., Tensor]) -> bool:
    """Say whether an augmentation, or what it is bound from, is ``none``, which needs no generator."""
    return getattr(augment, "func", augment) is none


def images(
    inputs: Tensor,
    generator: np.random.Generator,
    *,
    crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
) -> Tensor:
    """Crop, flip, warp and cut each image in a way of its own, in this order: warp, crop, flip, cutout.

    rotate, shear: largest angle in degrees, drawn uniformly from ``[-angle, angle]``. scale: the zoom is drawn
    log-uniformly from ``[1 / (1 + scale), 1 + scale]``. crop: pixels of padding from which a window of the
    original size is taken. flip: mirror left to right with probability 1/2. cutout: side of a square of zeros
    centred on a random pixel (DeVries and Taylor, 2017), cut off at the border.

    Raises:
        ValueError: the inputs are no images, or an option is negative.
    """
    for name, value in (("crop", crop), ("cutout", cutout), ("rotate", rotate), ("scale", scale), ("shear", shear)):
        if not 0 <= value < math.inf:
            raise ValueError(f"augment.{name} must be at least 0, got {value}")
    if inputs.ndim != 4:
        raise ValueError(
            f"augment wants images [B, channels, height, width], got {list(inputs.shape)}: set augment=none"
        )
    if rotate or scale or shear:
        inputs = _warped(inputs, generator, rotate, scale, shear)
    if crop:
        inputs = _cropped(inputs, generator, crop)
    if flip:
        mirrored = torch.from_numpy(generator.random(len(inputs)) < 0.5).to(inputs.device)
        inputs = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
    if cutout:
        inputs = _cut(inputs, generator, cutout)
    return inputs


def _warped(inputs: Tensor, generator: np.random.Generator, rotate: float, scale: float, shear: float) -> Tensor:
    count, _, height, width = inputs.shape
    angle = np.radians(generator.uniform(-rotate, rotate, count))
    slant = np.tan(np.radians(generator.uniform(-shear, shear, count)))
    zoom = np.exp(generator.uniform(-1, 1, count) * math.log1p(scale))
    # affine_grid maps output to input in coordinates of -1 .. 1, which stretch with the aspect ratio.
    aspect = height / width
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    matrix = np.zeros((count, 2, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = cosine, (slant * cosine + sine) * aspect
    matrix[:, 1, 0], matrix[:, 1, 1] = -sine / aspect, cosine - slant * sine
    theta = torch.from_numpy(matrix).to(inputs)
    grid = F.affine_grid(theta, list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, align_corners=False)


def _cropped(inputs: Tensor, generator: np.random.Generator, padding: int) -> Tensor:
    count, _, height, width = inputs.shape
    top, left = torch.from_numpy(generator.integers(0, 2 * padding + 1, (2, count))).to(inputs.device)
    rows = top[:, None] + torch.arange(height, device=inputs.device)
    columns = left[:, None] + torch.arange(width, device=inputs.device)
    # [B, H', W', channels] lets one indexing take every image's own window.
    padded = F.pad(inputs, (padding,) * 4).permute(0, 2, 3, 1)
    sample = torch.arange(count, device=inputs.device)[:, None, None]
    return padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cut(inputs: Tensor, generator: np.random.Generator, side: int) -> Tensor:
    count, _, height, width = inputs.shape
    centre = generator.random((2, count)) * [[height], [width]]
    start = torch.from_numpy(np.floor(centre) - side // 2).to(inputs.device)
    rows = torch.arange(height, device=inputs.device) - start[0][:, None]
    columns = torch.arange(width, device=inputs.device) - start[1][:, None]
    inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
    return inputs.masked_fill(inside[:, None], 0.0)
