"""One scheme for all weights of a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from seedvote.initialization.draws import draw_of


def default(model: nn.Module, generator: torch.Generator) -> None:
    """Leave the weights as the network's own constructor drew them."""


def everywhere(model: nn.Module, generator: torch.Generator, *, bias: float | None = 0.0, **scheme: Any) -> None:
    """Draw every weight by one scheme, each from where the last one left the generator.

    Weights are the parameters called ``weight...`` that have at least two axes: those of linear layers, convolutions,
    recurrent layers, attention and embeddings, but not a norm's. bias: what their biases become; ``None`` leaves them.
    scheme: ``scheme=NAME`` with its options, or ``add`` or ``mul``, as ``draws.draw_of`` reads them.

    Raises:
        ValueError: there is no such scheme or option, it cannot be used on a weight, or there are no weights.
    """
    draw, bias_draw = draw_of(scheme, "init"), None if bias is None else draw_of(bias, "init.bias")
    drawn = 0
    for module, parameters in owners(model):
        for name, parameter in parameters.items():
            if is_weight(name, parameter):
                draw.fill(module, name, parameter, generator)
                drawn += 1
        if bias_draw and any(is_weight(name, parameter) for name, parameter in parameters.items()):
            for name, parameter in parameters.items():
                if is_bias(name, parameter):
                    bias_draw.fill(module, name, parameter, generator)
    if not drawn:
        raise ValueError("init finds no weights in this network: use init=default, or rules that name its parameters")


def owners(model: nn.Module) -> Iterator[tuple[nn.Module, dict[str, nn.Parameter]]]:
    """Yield each module with the parameters of its own by their full names; one that is shared comes once."""
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        found = {
            f"{prefix}.{name}" if prefix else name: parameter
            for name, parameter in module.named_parameters(recurse=False)
            if parameter not in seen
        }
        seen.update(found.values())
        if found:
            yield module, found


def is_weight(name: str, tensor: Tensor) -> bool:
    """Say whether a parameter has inputs and outputs."""
    return tensor.ndim >= 2 and "weight" in name.rpartition(".")[2]


def is_bias(name: str, tensor: Tensor) -> bool:
    """Say whether a parameter is a bias, a layer's or a norm's."""
    return tensor.ndim == 1 and "bias" in name.rpartition(".")[2]
