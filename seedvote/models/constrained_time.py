"""Convolutional networks that differ in depth and width but take equal time."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from seedvote.models.pieces import MOST_LAYERS, activation_layer, check_size, image_norm, image_shape, is_size

STAGES = 3
LARGEST_KERNEL = 31


@dataclass(frozen=True)
class Convolution:
    """A convolutional layer: ``kernel`` x ``kernel`` filters that give ``channels_out`` images ``[height, width]``."""

    channels_in: int
    channels_out: int
    kernel: int
    height: int
    width: int

    @property
    def multiplications(self) -> int:
        """How many an image takes, padding included."""
        return self.channels_in * self.kernel**2 * self.channels_out * self.height * self.width


def time_complexity(layers: Sequence[Convolution]) -> int:
    """Return the multiplications that the convolutions take for one image.

    ``sum over l of n_{l-1} s_l^2 n_l m_l^2``, with ``n`` channels, ``s`` the side of a filter and ``m`` that of the
    layer's output. Padding is counted; norms, activations, pooling and the classifier are not.

    Source: He & Sun, "Convolutional Neural Networks at Constrained Time Cost", 2015 (arXiv:1412.1710), equation 1.
    """
    return sum(layer.multiplications for layer in layers)


def convolutions(input_shape: Sequence[int], depth: int, width: int, kernel: int) -> list[Convolution]:
    """Return the layers of a network with ``depth`` convolutions in three stages.

    All stages have as many layers, or later ones one more. A stage has half the height and width of the one before it
    and twice the channels, so a layer costs the same in all of them. width: channels of the last stage; the others have
    a half and a quarter of it, rounded up.
    """
    channels, height, side = input_shape
    layers = []
    for stage in range(STAGES):
        own = math.ceil(width / 2 ** (STAGES - 1 - stage))
        for _ in range((depth + stage) // STAGES):
            layers.append(Convolution(channels, own, kernel, height >> stage, side >> stage))
            channels = own
    return layers


def width_for(budget: int, input_shape: Sequence[int], depth: int, kernel: int) -> int:
    """Return the width of the last stage with which the network's ``time_complexity`` is nearest to a budget.

    Of two that are equally near, the smaller.

    Raises:
        ValueError: even a network of width 1 takes more.
    """

    def cost(width: int) -> int:
        return time_complexity(convolutions(input_shape, depth, width, kernel))

    if cost(1) > budget:
        raise ValueError(
            f"model.budget must be at least {cost(1)} multiplications an image for a depth of {depth} and filters of "
            f"{kernel}x{kernel}, got {budget}: raise it, or choose a smaller depth"
        )
    # Two stages' layers follow one another, so a width costs more than its square over four.
    beyond = 2 * math.isqrt(budget) + 2
    width = bisect.bisect_right(range(1, beyond), budget, key=cost)
    return width if budget - cost(width) <= cost(width + 1) - budget else width + 1


def constrained_time_cnn(
    input_shape: Sequence[int],
    n_classes: int,
    budget: int = 4_000_000,
    depth: int = 8,
    kernel: int = 3,
    norm: str = "batch",
    activation: str = "relu",
) -> nn.Module:
    """Build a plain convolutional network that is as wide as a budget of time allows its depth to be.

    Convolution, norm and activation each time, in three stages with max pooling between them; the mean over what is
    left of the image goes to the classifier. What is asked with it is whether depth is worth more than width: members
    of one budget take equal time.

    budget: multiplications of the convolutions for one image, see ``time_complexity``; the width that comes nearest is
    taken. depth: convolutions, at least 3. kernel: side of their filters, odd. norm, activation: as
    ``pieces.image_norm`` and ``pieces.ACTIVATIONS`` have them.

    Source: as ``time_complexity``; the paper's networks are for 224x224 pixels, with other pooling and no norm.

    Raises:
        ValueError: an option makes no sense, the budget is too small for the depth, or the input is not an image of at
            least 4x4 pixels.
    """
    check_size("kernel", kernel)
    if kernel % 2 == 0 or kernel > LARGEST_KERNEL:
        raise ValueError(f"model.kernel must be an odd number up to {LARGEST_KERNEL}, got {kernel}")
    if not is_size(depth) or not STAGES <= depth <= MOST_LAYERS:
        raise ValueError(f"model.depth must be a whole number from {STAGES} to {MOST_LAYERS}, got {depth!r}")
    if isinstance(budget, bool) or not isinstance(budget, int):
        raise ValueError(f"model.budget must be a whole number of multiplications, got {budget!r}")
    _, height, side = image_shape(input_shape, "constrained_time")
    if min(height, side) < 2 ** (STAGES - 1):
        raise ValueError(f"model constrained_time wants images of at least 4x4 pixels, got {height}x{side}")
    layers: list[nn.Module] = []
    last_height = height
    width = width_for(budget, input_shape, depth, kernel)
    for layer in convolutions(input_shape, depth, width, kernel):
        if layer.height < last_height:
            layers.append(nn.MaxPool2d(2))
            last_height = layer.height
        layers += [
            nn.Conv2d(layer.channels_in, layer.channels_out, kernel, padding=kernel // 2, bias=norm == "none"),
            image_norm(norm, layer.channels_out),
            activation_layer(activation),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes))
