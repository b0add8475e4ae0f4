"""LSUV: layers scaled, one after the other, until their outputs on training data have unit variance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seedvote.initialization.whole import everywhere

LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def lsuv(
    model: nn.Module,
    generator: torch.Generator,
    *,
    inputs: NDArray[np.float32],
    samples: int = 256,
    bias: float | None = 0.0,
    tolerance: float = 0.001,
    iterations: int = 10,
) -> None:
    """Draw orthogonal weights, then divide each layer's by the standard deviation of its outputs, in the order of use.

    One pass goes through the network; a layer is scaled when the pass comes to it, so the layers after it see what they
    will see in training. Norm layers normalise by the batch, as in training, and dropout is off. Linear layers and
    convolutions are scaled; other weights (and layers that the network does not call) stay orthogonal.

    inputs: normalised training inputs ``[S, ...]``; the first ``samples`` are used, the same for all members.
    tolerance: how far the variance may be from 1. iterations: scalings of a layer at most.

    Source: Mishkin & Matas, "All you need is a good init", 2016 (arXiv:1511.06422).

    Raises:
        ValueError: a layer's outputs do not vary or do not get to unit variance, or an option makes no sense.
    """
    if not (tolerance > 0 and iterations >= 1):
        raise ValueError(
            f"init.tolerance must be above 0 and init.iterations at least 1, got {tolerance} and {iterations}"
        )
    everywhere(model, generator, scheme="orthogonal", bias=bias)
    # A weight that is computed from other parameters, as weight normalisation does, cannot be scaled.
    names = {
        layer: name
        for name, layer in model.named_modules()
        if isinstance(layer, LAYERS) and isinstance(layer.weight, nn.Parameter)
    }
    scaled: set[nn.Parameter] = set()

    def scale(layer: Any, given: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> Tensor:
        if layer.weight in scaled:
            return output
        scaled.add(layer.weight)
        for _ in range(iterations):
            variance = _variance(output, names[layer])
            if abs(variance - 1) <= tolerance:
                return output
            layer.weight /= variance**0.5
            output = layer.forward(*given, **options)
        if abs(_variance(output, names[layer]) - 1) > tolerance:
            raise ValueError(
                f"init=lsuv: the outputs of {names[layer]} do not get to unit variance within {tolerance} in "
                f"{iterations} scalings: raise init.iterations or init.tolerance, or set init.bias=0"
            )
        return output

    hooks = [layer.register_forward_hook(scale, with_kwargs=True) for layer in names]
    try:
        with torch.no_grad(), _as_in_training(model):
            model(torch.from_numpy(inputs[:samples]).to(next(model.parameters()).dtype))
    finally:
        for hook in hooks:
            hook.remove()


def _variance(output: Tensor, name: str) -> float:
    variance = float(output.var(correction=0))
    if not 0 < variance < math.inf:
        raise ValueError(f"init=lsuv cannot scale {name}: the variance of its outputs is {variance}")
    return variance


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Let norm layers use the batch and nothing else behave as in training; then put everything back."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        for module in modes:
            module.training = "running_mean" in dict(module.named_buffers(recurse=False))
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
