"""DenseNets for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seedvote.models.pieces import (
    activation_layer,
    check_dropout,
    check_size,
    dropout_layer,
    image_norm,
    image_shape,
    is_size,
)

DEEPEST_DENSENET = 1000
BOTTLENECK = 4  # the 1x1 convolution has so many times the channels that a layer adds
PLAIN_STEM = 16  # channels of the first convolution where there are no bottlenecks


class DenseLayer(nn.Module):
    """Adds ``growth`` channels of its own to those that it is given: by norm, activation and a 3x3 convolution.

    With a bottleneck the same with a 1x1 convolution to 4 x ``growth`` channels goes before.
    """

    def __init__(
        self, channels: int, growth: int, bottleneck: bool, dropout: float, norm: str, activation: str
    ) -> None:
        """Build a layer that maps ``channels`` to ``channels + growth``."""
        super().__init__()
        layers: list[nn.Module] = []
        if bottleneck:
            layers += _composite(channels, BOTTLENECK * growth, 1, dropout, norm, activation)
            channels = BOTTLENECK * growth
        self.layers = nn.Sequential(*layers, *_composite(channels, growth, 3, dropout, norm, activation))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[B, channels, H, W]`` to ``[B, channels + growth, H, W]``."""
        return torch.cat([inputs, self.layers(inputs)], dim=1)


def densenet(
    input_shape: Sequence[int],
    n_classes: int,
    depth: int = 40,
    growth: int = 12,
    bottleneck: bool = True,
    dropout: float = 0.0,
    norm: str = "batch",
    activation: str = "relu",
) -> nn.Module:
    """Build the CIFAR DenseNet of Huang et al. (2017): three blocks in which every layer sees all layers before it.

    bottleneck: DenseNet-BC with (depth - 4) / 6 layers a block, behind 1x1 convolutions, and half the channels after
    each block; else the plain one with (depth - 4) / 3 layers. growth: channels that a layer adds. dropout: after each
    convolution but the first; the authors have 0.2 where nothing is augmented. norm, activation: as
    ``pieces.image_norm`` and ``pieces.ACTIVATIONS`` have them.

    Raises:
        ValueError: depth is not 6n + 4 (3n + 4 without bottlenecks) up to 1000, growth is no whole number above 0, the
            input is not an image, or a name is unknown.
    """
    step = 6 if bottleneck else 3
    if not is_size(depth) or not step + 4 <= depth <= DEEPEST_DENSENET or (depth - 4) % step:
        raise ValueError(
            f"model.depth must be {step}n + 4 ({step + 4}, {2 * step + 4}, ... at most {DEEPEST_DENSENET}) with "
            f"model.bottleneck={str(bottleneck).lower()}, got {depth!r}"
        )
    check_size("growth", growth)
    check_dropout(dropout)
    image_channels, _, _ = image_shape(input_shape, "densenet")
    channels = 2 * growth if bottleneck else PLAIN_STEM
    layers: list[nn.Module] = [nn.Conv2d(image_channels, channels, 3, padding=1, bias=norm == "none")]
    for block in range(3):
        if block:
            kept = channels // 2 if bottleneck else channels
            layers += [*_composite(channels, kept, 1, dropout, norm, activation), nn.AvgPool2d(2)]
            channels = kept
        for _ in range((depth - 4) // step):
            layers.append(DenseLayer(channels, growth, bottleneck, dropout, norm, activation))
            channels += growth
    layers += [image_norm(norm, channels), activation_layer(activation)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_classes))


def _composite(
    channels_in: int, channels_out: int, kernel: int, dropout: float, norm: str, activation: str
) -> list[nn.Module]:
    """Norm, activation, convolution, dropout: here the norm comes first, so it is each layer's own."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=norm == "none")
    return [image_norm(norm, channels_in), activation_layer(activation), convolution, *dropout_layer(dropout)]
