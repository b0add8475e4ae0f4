"""ResNets for small images."""

from __future__ import annotations

from collections.abc import Sequence

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

DEEPEST_RESNET = 1202  # of He et al.


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each with a norm, and a shortcut; a 1x1 convolution where the shape changes."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, norm: str = "batch", activation: str = "relu"
    ) -> None:
        """Build a block that divides height and width by ``stride``."""
        super().__init__()
        bias = norm == "none"  # a norm would take it away again
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=bias)
        self.norm1 = image_norm(norm, channels_out)
        self.activation1 = activation_layer(activation)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=bias)
        self.norm2 = image_norm(norm, channels_out)
        self.activation2 = activation_layer(activation)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=bias), image_norm(norm, channels_out)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[B, channels_in, H, W]`` to ``[B, channels_out, H / stride, W / stride]``."""
        hidden: Tensor = self.activation1(self.norm1(self.conv1(inputs)))
        output: Tensor = self.activation2(self.norm2(self.conv2(hidden)) + self.shortcut(inputs))
        return output


def resnet(
    input_shape: Sequence[int],
    n_classes: int,
    depth: int = 20,
    width: int = 16,
    dropout: float = 0.0,
    norm: str = "batch",
    activation: str = "relu",
) -> nn.Module:
    """Build the CIFAR ResNet of He et al. (2016), section 4.2: three stages of (depth - 2) / 6 blocks.

    width: channels of the first stage; the stages have 1, 2 and 4 times as many. Shortcuts that change shape are
    1x1 convolutions (option B). dropout: in front of the linear layer. norm, activation: as ``pieces.image_norm`` and
    ``pieces.ACTIVATIONS`` have them.

    Raises:
        ValueError: depth is not 6n + 2 up to 1202, width is no whole number above 0, ``dropout`` is not in 0 .. 1,
            the input is not an image, or a name is unknown.
    """
    if not is_size(depth) or not 8 <= depth <= DEEPEST_RESNET or (depth - 2) % 6:
        raise ValueError(f"model.depth must be 6n + 2 (8, 14, 20, 32, 44, 56, 110 ... 1202), got {depth!r}")
    check_size("width", width)
    check_dropout(dropout)
    image_channels, _, _ = image_shape(input_shape, "resnet")
    layers: list[nn.Module] = [
        nn.Conv2d(image_channels, width, 3, padding=1, bias=norm == "none"),
        image_norm(norm, width),
        activation_layer(activation),
    ]
    channels = width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            stage_channels = width * 2**stage
            stride = 2 if stage and not block else 1
            layers.append(ResidualBlock(channels, stage_channels, stride, norm, activation))
            channels = stage_channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dropout_layer(dropout)]
    return nn.Sequential(*layers, nn.Linear(channels, n_classes))
