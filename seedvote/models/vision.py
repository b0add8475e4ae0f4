"""The networks of torchvision."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from seedvote.errors import unknown
from seedvote.models.pieces import image_shape


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
