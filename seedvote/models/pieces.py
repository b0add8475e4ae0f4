"""What several networks are made of, and what their options are held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from seedvote.errors import unknown

NORMS = ("batch", "layer", "instance", "group", "none")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU, "silu": nn.SiLU, "elu": nn.ELU,
}  # fmt: skip
LARGEST_GROUP = 8  # channels; Wu & He (2018) find little between 2 and 64
MOST_LAYERS = 1000


def activation_layer(name: str) -> nn.Module:
    """Make an activation with torch's own options; ``prelu`` has one learned slope, 0.25 at first.

    Raises:
        ValueError: ``name`` is none of ``ACTIVATIONS``.
    """
    if name not in ACTIVATIONS:
        raise ValueError(unknown("model.activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]()


def image_norm(name: str, channels: int) -> nn.Module:
    """Make what normalises images ``[B, channels, H, W]``, then scales and shifts each channel.

    ``batch`` takes mean and variance of a channel over the batch, ``instance`` over one image's channel, ``layer`` over
    one image, ``group`` over the largest equal groups of at most 8 of its channels; ``none`` does nothing.

    Source: Wu & He, "Group Normalization", 2018 (arXiv:1803.08494), whose section 3 has the four side by side.

    Raises:
        ValueError: ``name`` is none of ``NORMS``, or the channels cannot be grouped.
    """
    _check_norm(name)
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if name == "none":
        return nn.Identity()
    return nn.GroupNorm(1 if name == "layer" else group_count(channels), channels)


def feature_norm(name: str, features: int) -> nn.Module:
    """Make what normalises vectors ``[B, features]``, then scales and shifts each feature, as ``image_norm`` does.

    Raises:
        ValueError: ``name`` is none of ``NORMS``, is ``instance``, or the features cannot be grouped.
    """
    _check_norm(name)
    if name == "instance":
        raise ValueError("model.norm=instance is for images, a vector has one number a channel: use layer or group")
    if name == "batch":
        return nn.BatchNorm1d(features)
    if name == "layer":
        return nn.LayerNorm(features)
    return nn.Identity() if name == "none" else nn.GroupNorm(group_count(features), features)


def group_count(channels: int) -> int:
    """Return into how many groups channels are divided: equal ones, as large as can be, of 2 to 8.

    Raises:
        ValueError: they cannot be divided so.
    """
    size = max(divisor for divisor in range(1, LARGEST_GROUP + 1) if channels % divisor == 0)
    if size == 1:
        raise ValueError(
            f"model.norm=group wants a number of channels with a divisor from 2 to {LARGEST_GROUP}, got {channels}: "
            "choose another number, or norm=layer"
        )
    return channels // size


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


def is_size(value: object) -> bool:
    """Say whether a value is a whole number that can be the length of an axis."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def check_size(key: str, value: object) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        ValueError: it is none.
    """
    if not is_size(value):
        raise ValueError(f"model.{key} must be a whole number of at least 1, got {value!r}")


def check_sizes(key: str, values: object, count: int | None = None) -> None:
    """Refuse what is no list of whole numbers of at least 1, ``count`` of them if that is given.

    Raises:
        ValueError: it is none.
    """
    wanted = f"{count} whole numbers" if count else "whole numbers"
    sound = isinstance(values, (list, tuple)) and all(map(is_size, values)) and len(values) <= MOST_LAYERS
    if not sound or (count is not None and len(values) != count):  # type: ignore[arg-type]
        raise ValueError(
            f"model.{key} must be a list of {wanted} of at least 1, such as [64,32], got {str(values)[:200]}"
        )


def dropout_layer(probability: float) -> list[nn.Module]:
    """Return a dropout layer, or none where it would do nothing: other layers keep their numbers so."""
    return [nn.Dropout(probability)] if probability else []


def check_dropout(value: object, key: str = "dropout") -> None:
    """Refuse what is no probability below 1.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"model.{key} must be a number of at least 0 and below 1, got {value!r}")


def _check_norm(name: str) -> None:
    if name not in NORMS:
        raise ValueError(unknown("model.norm", name, NORMS))
