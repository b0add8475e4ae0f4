"""The multi-layer perceptron and LeNet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from seedvote.models.pieces import (
    activation_layer,
    check_dropout,
    check_sizes,
    dropout_layer,
    feature_norm,
    image_norm,
    image_shape,
)


def mlp(
    input_shape: Sequence[int],
    n_classes: int,
    hidden: Sequence[int] = (256,),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    norm: str = "none",
    activation: str = "relu",
) -> nn.Module:
    """Build a multi-layer perceptron on the flattened input: linear layer, norm, activation and dropout each time.

    dropout: in front of each linear layer but the first. input_dropout: in front of the first. norm: ``batch``,
    ``layer``, ``group`` or ``none``. activation: one of ``pieces.ACTIVATIONS``.

    Raises:
        ValueError: ``hidden`` is no list of whole numbers above 0, a dropout is not in 0 .. 1, or a name is unknown.
    """
    check_sizes("hidden", hidden)
    check_dropout(dropout)
    check_dropout(input_dropout, "input_dropout")
    layers: list[nn.Module] = [nn.Flatten(), *dropout_layer(input_dropout)]
    width = math.prod(input_shape)
    for units in hidden:
        layers += [nn.Linear(width, units), *_unless_none(feature_norm(norm, units)), activation_layer(activation)]
        layers += dropout_layer(dropout)
        width = units
    return nn.Sequential(*layers, nn.Linear(width, n_classes))


def lenet(
    input_shape: Sequence[int],
    n_classes: int,
    channels: tuple[int, int] = (16, 32),
    hidden: Sequence[int] = (120, 84),
    dropout: float = 0.0,
    pooling_dropout: float = 0.0,
    norm: str = "none",
    activation: str = "relu",
) -> nn.Module:
    """Build LeNet-5 with max pooling (LeCun et al., 1998), for images of 28x28 or 32x32 pixels.

    Images of 28x28 are padded by two in the first convolution, as the original padded its digits to 32x32. The
    activation comes after pooling: the two commute if it never falls, and a quarter of the pixels is a quarter of the
    work.

    channels: of the two convolutions; the original has (6, 16). The default does better on MNIST's validation split.
    pooling_dropout: after each pooling, the second of which is in front of the first linear layer. dropout: in front of
    the other linear layers. norm: after each convolution and, but for ``instance``, after each hidden linear layer.
    activation: one of ``pieces.ACTIVATIONS``; the original's is near ``tanh``.

    Raises:
        ValueError: the input is not an image of one of the two sizes, or an option makes no sense.
    """
    check_sizes("channels", channels, 2)
    check_sizes("hidden", hidden)
    check_dropout(dropout)
    check_dropout(pooling_dropout, "pooling_dropout")
    depth, height, width = image_shape(input_shape, "lenet")
    if (height, width) not in ((28, 28), (32, 32)):
        raise ValueError(
            f"model lenet wants images of 28x28 or 32x32 pixels, got {height}x{width}: use model=resnet or model=mlp"
        )
    layers: list[nn.Module] = []
    for units, padding in zip(channels, (2 if height == 28 else 0, 0), strict=True):
        layers += [nn.Conv2d(depth, units, 5, padding=padding), *_unless_none(image_norm(norm, units))]
        layers += [nn.MaxPool2d(2), activation_layer(activation), *dropout_layer(pooling_dropout)]
        depth = units
    layers.append(nn.Flatten())
    features = depth * 5 * 5
    behind = "none" if norm == "instance" else norm
    for units in hidden:
        layers += [nn.Linear(features, units), *_unless_none(feature_norm(behind, units)), activation_layer(activation)]
        layers += dropout_layer(dropout)
        features = units
    return nn.Sequential(*layers, nn.Linear(features, n_classes))


def _unless_none(norm: nn.Module) -> list[nn.Module]:
    """Leave out a norm that does nothing: it would shift the numbers by which stored weights name the layers."""
    return [] if isinstance(norm, nn.Identity) else [norm]
