"""Networks. None of them knows a seed: weights are drawn from whatever generator is current.

Every builder takes ``input_shape`` (one sample, without the batch axis) and ``n_classes`` first, and returns a
module that maps ``[B, *input_shape]`` to logits ``[B, C]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from seedvote.errors import unknown

DEEPEST_RESNET = 1202  # of He et al.
MOST_LAYERS = 1000


def mlp(
    input_shape: Sequence[int],
    n_classes: int,
    hidden: Sequence[int] = (256,),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> nn.Module:
    """Build a multi-layer perceptron with ReLU on the flattened input.

    dropout: in front of each linear layer but the first. input_dropout: in front of the first.

    Raises:
        ValueError: ``hidden`` is no list of whole numbers above 0, or a dropout is not in 0 .. 1.
    """
    _check_sizes("hidden", hidden)
    _check_dropout("dropout", dropout)
    _check_dropout("input_dropout", input_dropout)
    layers: list[nn.Module] = [nn.Flatten(), *_dropout(input_dropout)]
    width = math.prod(input_shape)
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), *_dropout(dropout)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, n_classes))


def lenet(
    input_shape: Sequence[int],
    n_classes: int,
    channels: tuple[int, int] = (16, 32),
    hidden: Sequence[int] = (120, 84),
    dropout: float = 0.0,
    pooling_dropout: float = 0.0,
) -> nn.Module:
    """Build LeNet-5 with ReLU and max pooling (LeCun et al., 1998), for images of 28x28 or 32x32 pixels.

    Images of 28x28 are padded by two in the first convolution, as the original padded its digits to 32x32. ReLU comes
    after pooling: the two commute, and a quarter of the pixels is a quarter of the work.

    channels: of the two convolutions; the original has (6, 16). The default does better on MNIST's validation split.
    pooling_dropout: after each pooling, the second of which is in front of the first linear layer. dropout: in front of
    the other linear layers.

    Raises:
        ValueError: the input is not an image of one of the two sizes, or an option makes no sense.
    """
    _check_sizes("channels", channels, 2)
    _check_sizes("hidden", hidden)
    _check_dropout("dropout", dropout)
    _check_dropout("pooling_dropout", pooling_dropout)
    depth, height, width = image_shape(input_shape, "lenet")
    if (height, width) not in ((28, 28), (32, 32)):
        raise ValueError(
            f"model lenet wants images of 28x28 or 32x32 pixels, got {height}x{width}: use model=resnet or model=mlp"
        )
    first, second = channels
    layers: list[nn.Module] = [
        nn.Conv2d(depth, first, 5, padding=2 if height == 28 else 0),
        nn.MaxPool2d(2),
        nn.ReLU(),
        *_dropout(pooling_dropout),
        nn.Conv2d(first, second, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        *_dropout(pooling_dropout),
        nn.Flatten(),
    ]
    features = second * 5 * 5
    for units in hidden:
        layers += [nn.Linear(features, units), nn.ReLU(), *_dropout(dropout)]
        features = units
    return nn.Sequential(*layers, nn.Linear(features, n_classes))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut; a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        """Build a block that divides height and width by ``stride``."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[B, channels_in, H, W]`` to ``[B, channels_out, H / stride, W / stride]``."""
        hidden = F.relu(self.norm1(self.conv1(inputs)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(inputs))


def resnet(
    input_shape: Sequence[int], n_classes: int, depth: int = 20, width: int = 16, dropout: float = 0.0
) -> nn.Module:
    """Build the CIFAR ResNet of He et al. (2016), section 4.2: three stages of (depth - 2) / 6 blocks.

    width: channels of the first stage; the stages have 1, 2 and 4 times as many. Shortcuts that change shape are
    1x1 convolutions (option B). dropout: in front of the linear layer.

    Raises:
        ValueError: depth is not 6n + 2 up to 1202, width is no whole number above 0, ``dropout`` is not in 0 .. 1, or
            the input is not an image.
    """
    if not _is_size(depth) or not 8 <= depth <= DEEPEST_RESNET or (depth - 2) % 6:
        raise ValueError(f"model.depth must be 6n + 2 (8, 14, 20, 32, 44, 56, 110 ... 1202), got {depth!r}")
    if not _is_size(width):
        raise ValueError(f"model.width must be a whole number of at least 1, got {width!r}")
    _check_dropout("dropout", dropout)
    image_channels, _, _ = image_shape(input_shape, "resnet")
    layers: list[nn.Module] = [
        nn.Conv2d(image_channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    channels = width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            stage_channels = width * 2**stage
            layers.append(ResidualBlock(channels, stage_channels, stride=2 if stage and not block else 1))
            channels = stage_channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *_dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(channels, n_classes))


def torchvision_model(
    input_shape: Sequence[int], n_classes: int, name: str, small_images: bool = False, **options: object
) -> nn.Module:
    """Build a classification model of torchvision by name, with random weights.

    small_images: put a 3x3 convolution of stride 1 in place of a ResNet's 7x7 one of stride 2 and its pooling,
    as is usual for 32x32 pixels. Networks for three colours get grey images repeated.

    Raises:
        ValueError: torchvision has no such model, or ``small_images`` is asked of one that is no ResNet.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if not isinstance(name, str) or name not in names:
        raise ValueError(unknown("model.name", name, names))
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=n_classes, **options)
    channels, _, _ = image_shape(input_shape, name)
    if small_images:
        if not isinstance(model, torchvision.models.ResNet):
            raise ValueError(f"model.small_images is for torchvision's ResNets, not for {name}: set it to false")
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model if channels == 3 else nn.Sequential(GreyToColour(), model)


class GreyToColour(nn.Module):
    """Repeats one channel three times."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[B, 1, H, W]`` to ``[B, 3, H, W]``."""
        return inputs.expand(-1, 3, -1, -1)


def image_shape(input_shape: Sequence[int], model: str) -> tuple[int, int, int]:
    """Return channels, height and width, or refuse inputs that are no images.

    Raises:
        ValueError: ``input_shape`` does not have three axes.
    """
    if len(input_shape) != 3:
        raise ValueError(
            f"model {model} wants images [channels, height, width], got inputs of shape "
            f"{list(input_shape)}: use model=mlp for vectors"
        )
    channels, height, width = input_shape
    return channels, height, width


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _check_sizes(key: str, values: object, count: int | None = None) -> None:
    wanted = f"{count} whole numbers" if count else "whole numbers"
    sound = isinstance(values, (list, tuple)) and all(map(_is_size, values)) and len(values) <= MOST_LAYERS
    if not sound or (count is not None and len(values) != count):  # type: ignore[arg-type]
        raise ValueError(
            f"model.{key} must be a list of {wanted} of at least 1, such as [64,32], got {str(values)[:200]}"
        )


def _dropout(probability: float) -> list[nn.Module]:
    """Return a dropout layer, or none where it would do nothing: other layers keep their names so."""
    return [nn.Dropout(probability)] if probability else []


def _check_dropout(key: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"model.{key} must be a number of at least 0 and below 1, got {value!r}")
