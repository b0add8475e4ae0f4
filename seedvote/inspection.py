"""A look into a network before it is trained: its layers, and how signals and gradients pass through them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from seedvote.course import batches, epoch_order
from seedvote.data import evaluation_inputs, training_inputs
from seedvote.initialization import initial_model
from seedvote.seeding import Streams, restored_generators, seed_device
from seedvote.types import Data, Recipe

# What an activation function cannot go beyond. A unit within a hundredth of that range from an end hardly learns.
BOUNDS = {nn.Sigmoid: (0.0, 1.0), nn.Hardsigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0), nn.Hardtanh: (-1.0, 1.0)}
SATURATED = 0.01
# A sound network of 20 layers keeps what passes through within a factor of about ten, one that learns nothing loses
# or gains more with each layer.
TOO_SMALL, TOO_LARGE = 1e-3, 1e3


@dataclass(frozen=True)
class Layer:
    """A layer of a network: a module that holds parameters of its own or no other modules.

    shape: of its output for one sample; ``None`` if it was not called or returns no tensor. parameters: its own.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int


@dataclass(frozen=True)
class Signal:
    """What passes through a layer in a member's first step.

    mean, deviation: of its outputs. zeros: share of them that is 0. saturated: share that is within 1 % of a bound of
    its activation function; ``None`` for other layers. gradient: norm of the loss's gradient with respect to the
    outputs; weight_gradient: with respect to its own parameters; ``None`` where there is none. problems: what is wrong
    with these numbers, in words.
    """

    name: str
    kind: str
    mean: float
    deviation: float
    zeros: float
    saturated: float | None
    gradient: float | None
    weight_gradient: float | None
    problems: tuple[str, ...] = ()


def layers(recipe: Recipe, data: Data) -> list[Layer]:
    """Return the network's layers in the order in which it names them."""
    model = initial_model(recipe, Streams(0, recipe.vary, recipe.shared_seed)).eval()
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, module: nn.Module, output: Tensor) -> None:
        shapes[name] = tuple(output.shape[1:])

    with torch.inference_mode(), restored_generators(torch.device("cpu")), _heard(model, note):
        model(evaluation_inputs(data.train.inputs[:2], data, next(model.parameters()).dtype))
    return [
        Layer(name, type(module).__name__, shapes.get(name), _own_parameters(module))
        for name, module in model.named_modules()
        if _is_layer(module)
    ]


def first_signals(recipe: Recipe, data: Data, seed: int, device: torch.device) -> list[Signal]:
    """Send a member's first batch through its first weights, there and back, and say what passes through each layer.

    A layer's gradient is too small or too large against that of the last layer that has one, its outputs against the
    network's inputs: the norm of the first and the standard deviation of the second should neither shrink nor grow by
    more than a factor of 1,000 (X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward
    neural networks", 2010).
    """
    streams = Streams(seed, recipe.vary, recipe.shared_seed)
    model = initial_model(recipe, streams).to(device).train()
    chosen = batches(epoch_order(streams, 1, recipe, data), recipe.batch_size)[0]
    raw = data.train.inputs[chosen].to(device)
    labels = data.train.labels[chosen].to(device)
    found: dict[str, tuple[nn.Module, Signal]] = {}
    gradients: dict[str, float] = {}

    def note(name: str, module: nn.Module, output: Tensor) -> None:
        if not output.is_floating_point() or not output.requires_grad:
            return
        calls = sum(other is module for other, _ in found.values())
        name = f"{name} ({calls + 1})" if calls else name
        found[name] = module, _signal(name, module, output.detach())
        # At once, and not on the module: what follows may change the output in place.
        output.register_hook(lambda gradient: gradients.update({name: _norm(gradient)}))

    with restored_generators(device), _heard(model, note):
        generator, dtype = streams.generator("augment", 1, 0), next(model.parameters()).dtype
        inputs = training_inputs(raw, data, recipe.augment, generator, dtype)
        seed_device(device, streams.number("dropout", 1, 0))
        F.cross_entropy(model(inputs), labels, label_smoothing=recipe.label_smoothing).backward()
    signals = [
        dataclasses.replace(signal, gradient=gradients.get(name), weight_gradient=_weight_gradient(module))
        for name, (module, signal) in found.items()
    ]
    return _judged(signals, float(inputs.std()))


def _judged(signals: list[Signal], inputs: float) -> list[Signal]:
    """Say of each layer what is wrong. inputs: the standard deviation of the network's inputs."""
    last = next((signal.gradient for signal in reversed(signals) if signal.gradient is not None), None)
    judged = []
    for signal in signals:
        problems = [_problem("outputs", signal.deviation, inputs)]
        if signal.gradient is not None and last is not None:
            problems.append(_problem("gradient", signal.gradient, last))
        judged.append(dataclasses.replace(signal, problems=tuple(filter(None, problems))))
    return judged


def _problem(what: str, size: float, reference: float) -> str:
    if not math.isfinite(size) or size > TOO_LARGE * reference:
        return f"exploding {what}"
    return f"vanishing {what}" if size < TOO_SMALL * reference or size == 0 else ""


def _signal(name: str, module: nn.Module, output: Tensor) -> Signal:
    values = output.double() if output.device.type != "mps" else output
    saturated = None
    if type(module) in BOUNDS:
        low, high = BOUNDS[type(module)]
        margin = SATURATED * (high - low)
        saturated = float(((values < low + margin) | (values > high - margin)).double().mean())
    zeros = float((values == 0).float().mean())
    deviation = float(values.std(unbiased=False))
    return Signal(name, type(module).__name__, float(values.mean()), deviation, zeros, saturated, None, None)


def _weight_gradient(module: nn.Module) -> float | None:
    own = [parameter.grad for parameter in module.parameters(recurse=False) if parameter.grad is not None]
    return math.hypot(*map(_norm, own)) if own else None


def _norm(gradient: Tensor) -> float:
    # In float64 on the CPU: what vanishes in float32 is what this is to find out.
    return float(gradient.detach().cpu().double().norm())


def _is_layer(module: nn.Module) -> bool:
    return not any(True for _ in module.children()) or _own_parameters(module) > 0


def _own_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


@contextmanager
def _heard(model: nn.Module, note: Any) -> Iterator[None]:
    """Call ``note(name, module, output)`` whenever a layer has computed a tensor, inside the block."""

    def hook(name: str) -> Any:
        def told(module: nn.Module, _: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) and output else output
            if isinstance(output, Tensor):
                note(name, module, output)

        return told

    named = [(name, module) for name, module in model.named_modules() if _is_layer(module)]
    handles: list[RemovableHandle] = [module.register_forward_hook(hook(name)) for name, module in named]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
