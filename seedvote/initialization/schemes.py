"""Schemes for one tensor: torch's own, and those that torch has not.

Each takes (module, name, tensor, generator) and fills the tensor in place. Weights are ``[out, in, *kernel]`` with
``fan_in = in * prod(kernel)`` and ``fan_out = out * prod(kernel)``. A grouped convolution is several maps side by
side, so each group is drawn as a weight of its own: its fan_out counts the outputs of one group, where
``torch.nn.init`` counts those of all. A transposed convolution stores its axes the other way round, and is turned for
the draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init

from seedvote.errors import unknown

NONLINEARITIES = ("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu")


def own(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Leave what the network's constructor drew."""


def constant(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator, *, value: float) -> None:
    """Set every weight to ``value``."""
    init.constant_(tensor, value)


def normal(
    module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator, *, mean: float = 0.0, std: float = 0.01
) -> None:
    """Draw from ``N(mean, std²)``."""
    init.normal_(tensor, mean, _at_least("std", std, 0), generator)


def uniform(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator, *, a: float, b: float) -> None:
    """Draw from ``U[a, b]``."""
    init.uniform_(tensor, a, _at_least("b", b, a), generator)


def scaled_normal(
    module: nn.Module,
    name: str,
    tensor: Tensor,
    generator: torch.Generator,
    *,
    scale: float = 1.0,
    mode: str = "fan_in",
) -> None:
    """Draw from ``N(0, scale² / n)``, where ``n`` is the fan that ``mode`` names."""

    def draw(weight: Tensor) -> None:
        init.normal_(weight, 0.0, _at_least("scale", scale, 0) / math.sqrt(fan(weight, mode)), generator)

    _draw_weights(module, name, tensor, draw)


def lecun_normal(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Draw from ``N(0, 1 / fan_in)`` (LeCun et al., "Efficient BackProp", 1998, section 4.6)."""
    _draw_weights(
        module, name, tensor, lambda weight: init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)
    )


def lecun_uniform(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Draw from ``U[-1 / sqrt(fan_in), 1 / sqrt(fan_in)]``, of variance ``1 / (3 fan_in)``.

    The "commonly used heuristic" of Glorot & Bengio (2010), equation 1, and what torch's own layers draw. LeCun's
    ``1 / fan_in`` as a uniform distribution is ``kaiming_uniform`` with ``nonlinearity="linear"``.
    """

    def draw(weight: Tensor) -> None:
        bound = 1 / math.sqrt(fan(weight, "fan_in"))
        init.uniform_(weight, -bound, bound, generator)

    _draw_weights(module, name, tensor, draw)


def xavier_normal(
    module: nn.Module,
    name: str,
    tensor: Tensor,
    generator: torch.Generator,
    *,
    nonlinearity: str = "linear",
    negative_slope: float = 0.01,
) -> None:
    """Draw from ``N(0, 2 gain² / (fan_in + fan_out))`` (Glorot & Bengio, 2010)."""
    factor = gain(nonlinearity, negative_slope)
    _draw_weights(module, name, tensor, lambda weight: init.xavier_normal_(weight, factor, generator))


def xavier_uniform(
    module: nn.Module,
    name: str,
    tensor: Tensor,
    generator: torch.Generator,
    *,
    nonlinearity: str = "linear",
    negative_slope: float = 0.01,
) -> None:
    """Draw from ``U[-b, b]``, ``b = gain sqrt(6 / (fan_in + fan_out))`` (Glorot & Bengio, 2010)."""
    factor = gain(nonlinearity, negative_slope)
    _draw_weights(module, name, tensor, lambda weight: init.xavier_uniform_(weight, factor, generator))


def kaiming_normal(
    module: nn.Module,
    name: str,
    tensor: Tensor,
    generator: torch.Generator,
    *,
    mode: str = "fan_in",
    nonlinearity: str = "relu",
    negative_slope: float = 0.01,
) -> None:
    """Draw from ``N(0, gain² / fan)`` (He et al., 2015)."""
    options = _kaiming_options(mode, nonlinearity, negative_slope)
    _draw_weights(module, name, tensor, lambda weight: init.kaiming_normal_(weight, generator=generator, **options))


def kaiming_uniform(
    module: nn.Module,
    name: str,
    tensor: Tensor,
    generator: torch.Generator,
    *,
    mode: str = "fan_in",
    nonlinearity: str = "relu",
    negative_slope: float = 0.01,
) -> None:
    """Draw from ``U[-b, b]``, ``b = gain sqrt(3 / fan)`` (He et al., 2015)."""
    options = _kaiming_options(mode, nonlinearity, negative_slope)
    _draw_weights(module, name, tensor, lambda weight: init.kaiming_uniform_(weight, generator=generator, **options))


def orthogonal(
    module: nn.Module,
    name: str,
    tensor: Tensor,
    generator: torch.Generator,
    *,
    nonlinearity: str = "linear",
    negative_slope: float = 0.01,
) -> None:
    """Draw a (semi-)orthogonal matrix ``[out, in * prod(kernel)]`` times the gain (Saxe et al., 2014)."""
    factor = gain(nonlinearity, negative_slope)
    _draw_weights(module, name, tensor, lambda weight: init.orthogonal_(weight, factor, generator))


def identity(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> None:
    """Pass on as many inputs unchanged as there are outputs: ones on the diagonal, in a kernel at its centre.

    Matrices that are not square lose inputs or add zeros (Le et al., 2015, for matrices; Zagoruyko & Komodakis, 2017,
    for kernels).
    """

    def draw(weight: Tensor) -> None:
        if weight.ndim == 2:
            init.eye_(weight)
        else:
            init.dirac_(weight)

    _draw_weights(module, name, tensor, draw)


def sparse(
    module: nn.Module,
    name: str,
    tensor: Tensor,
    generator: torch.Generator,
    *,
    connections: int = 15,
    std: float = 1.0,
) -> None:
    """Give each output ``connections`` weights from ``N(0, std²)``, at places of its own; the rest are 0.

    Where fan_in is smaller than ``connections``, all are drawn (Martens, 2010; Sutskever et al., 2013). torch's
    ``sparse_`` thins out each input instead of each output, and draws the places from the global generator.
    """
    kept, spread = int(_at_least("connections", connections, 1)), _at_least("std", std, 0)

    def draw(weight: Tensor) -> None:
        rows = weight.flatten(1)
        init.normal_(rows, 0.0, spread, generator)
        order = torch.rand(rows.shape, generator=generator).argsort(1)
        rows.scatter_(1, order[:, kept:], 0.0)

    _draw_weights(module, name, tensor, draw)


def gain(nonlinearity: str, negative_slope: float) -> float:
    """Return torch's gain: 1, for tanh 5/3, relu sqrt(2), leaky_relu sqrt(2 / (1 + negative_slope²)), selu 3/4.

    Raises:
        ValueError: there is no such nonlinearity.
    """
    return float(init.calculate_gain(_nonlinearity(nonlinearity), negative_slope))


def fan(weight: Tensor, mode: str) -> int:
    """Return ``fan_in`` or ``fan_out`` of a weight ``[out, in, *kernel]``.

    Raises:
        ValueError: ``mode`` is neither.
    """
    out, fan_in = weight.shape[0], math.prod(weight.shape[1:])
    return fan_in if _mode(mode) == "fan_in" else fan_in // weight.shape[1] * out


def weights_within(module: nn.Module, name: str, tensor: Tensor) -> Iterator[Tensor]:
    """Yield the weights ``[out, in, *kernel]`` that a parameter (or a part of one) consists of, as views of it.

    Raises:
        ValueError: it has fewer than two axes, and so neither inputs nor outputs.
    """
    if tensor.ndim < 2:
        raise ValueError(f"it needs a weight of at least two axes, got {name} {list(tensor.shape)}")
    whole = getattr(module, name.rpartition(".")[2], None)
    groups = getattr(module, "groups", 1) if isinstance(whole, Tensor) and whole.shape == tensor.shape else 1
    for group in tensor.chunk(groups):
        yield group.transpose(0, 1) if getattr(module, "transposed", False) else group


def _draw_weights(module: nn.Module, name: str, tensor: Tensor, draw: Callable[[Tensor], object]) -> None:
    for weight in weights_within(module, name, tensor):
        # torch's schemes want contiguous tensors, and a transposed one is none.
        drawn = torch.empty(weight.shape, dtype=weight.dtype)
        draw(drawn)
        weight.copy_(drawn)


def _kaiming_options(mode: str, nonlinearity: str, negative_slope: float) -> dict[str, Any]:
    return {"a": negative_slope, "mode": _mode(mode), "nonlinearity": _nonlinearity(nonlinearity)}


def _mode(mode: str) -> str:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(unknown("mode", mode, ("fan_in", "fan_out")))
    return mode


def _nonlinearity(nonlinearity: str) -> Any:
    if nonlinearity not in NONLINEARITIES:
        raise ValueError(unknown("nonlinearity", nonlinearity, NONLINEARITIES))
    return nonlinearity


def _at_least(option: str, value: float, least: float) -> float:
    if value < least:
        raise ValueError(f"{option} must be at least {least}, got {value}")
    return value
