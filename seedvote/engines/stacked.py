"""Several networks of one architecture computed as one.

The members' parameters are stacked on a first axis G. Features ``[G, B, features]`` go through one batched matrix
product; images ``[B, G * channels, height, width]`` go through grouped convolutions and per-channel layers, which treat
every member's channels by themselves. What would round by a member's place or by the number of members is computed for
one after the other. torch.fx says which layers follow which.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from seedvote.engines.linear import StackedLinear

POINTWISE_MODULES = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink, nn.Hardswish,
    nn.Hardsigmoid, nn.Hardtanh,
)  # fmt: skip
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.LayerNorm, nn.GroupNorm)
POOLING_MODULES = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
DROPOUT_MODULES = (nn.Dropout,)
POINTWISE_FUNCTIONS = (
    F.relu, torch.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.hardswish,
    torch.tanh, torch.sigmoid,
)  # fmt: skip
ADDITIONS = (operator.add, operator.iadd, torch.add)
# What a processor takes at once at most, in a norm's loop over channels and in one over all numbers (two vectors).
CHANNELS = 16
NUMBERS = 32


class NotStackable(ValueError):
    """A network has a part that cannot be computed for several members at once; the message names it."""


Graph = Sequence[Any]  # of torch.fx.Node


def traced(model: nn.Module) -> Graph:
    """Say which operations a network consists of; while torch traces, it changes how modules are called everywhere.

    Raises:
        NotStackable: that depends on the inputs.
    """
    try:
        return list(fx.symbolic_trace(model).graph.nodes)
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        raise NotStackable(f"its forward cannot be traced ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class _Value:
    """A tensor on its way through the network: images ``[B, G * C, H, W]``, or features ``[G, B, F]``."""

    tensor: Tensor
    images: bool


class Stacked:
    """G networks of one architecture, with the same layers and weights of their own.

    parameters, buffers: by the network's own names, each ``[G, ...]``.
    """

    def __init__(self, models: Sequence[nn.Module], graph: Graph | None = None) -> None:
        """Stack networks.

        graph: what ``traced`` says of one of them; ``None`` to trace the first, while no other thread computes.

        Raises:
            NotStackable: the architecture has a part that this module does not know.
        """
        self.count = len(models)
        states = [model.state_dict() for model in models]
        parameters = dict(models[0].named_parameters())
        buffers = dict(models[0].named_buffers())
        if states[0].keys() != {*parameters, *buffers}:
            raise NotStackable("it shares weights between layers, or keeps buffers out of its state")
        self.parameters = {
            name: nn.Parameter(torch.stack([state[name] for state in states]), requires_grad=parameter.requires_grad)
            for name, parameter in parameters.items()
        }
        self.buffers = {name: torch.stack([state[name] for state in states]) for name in buffers}
        self._parts: dict[str, list[nn.Parameter]] = {}
        self._modules = dict(models[0].named_modules())
        self._nodes = graph or traced(models[0])
        # By operation, the values that nothing after it needs: kept, they would fill the memory in an evaluation.
        self._used_up: dict[fx.Node, list[fx.Node]] = {}
        for used, last in {used: node for node in self._nodes for used in node.all_input_nodes}.items():
            self._used_up.setdefault(last, []).append(used)
        self._check()

    @property
    def dtype(self) -> torch.dtype:
        """The kind of number that the networks compute with."""
        return next(iter(self.parameters.values())).dtype

    @property
    def whole(self) -> dict[str, nn.Parameter]:
        """The parameters that are not split, by name."""
        return {name: parameter for name, parameter in self.parameters.items() if name not in self._parts}

    def split(self, names: Iterable[str]) -> None:
        """Make every member's own part of some parameters, for the optimizer; parts share the whole's memory."""
        for name in names:
            whole = self.parameters[name]
            parts = whole.detach().unbind(0)
            self._parts[name] = [nn.Parameter(part, requires_grad=whole.requires_grad) for part in parts]

    def parts_of(self, member: int) -> dict[str, nn.Parameter]:
        """Return one member's own parts of what is split, by name."""
        return {name: parts[member] for name, parts in self._parts.items()}

    def hand_out_gradients(self) -> None:
        """Move the gradients of parameters that are split to the members' parts."""
        for name, parts in self._parts.items():
            gradient, self.parameters[name].grad = self.parameters[name].grad, None
            if gradient is not None:
                for part, own in zip(parts, gradient.unbind(0), strict=True):
                    part.grad = own

    def gradients(self, member: int) -> dict[str, Tensor]:
        """Return one member's gradients by name, as far as there are any."""
        found = {name: part.grad for name, part in self.parts_of(member).items() if part.grad is not None}
        found |= {name: whole.grad[member] for name, whole in self.whole.items() if whole.grad is not None}
        return {name: found[name] for name in self.parameters if name in found}

    def state(self, member: int) -> dict[str, Tensor]:
        """Copy one member's weights and buffers to the CPU, as its network's own ``state_dict`` names them."""
        stacked = {**self.parameters, **self.buffers}
        return {name: tensor[member].detach().to("cpu", copy=True).contiguous() for name, tensor in stacked.items()}

    def __call__(self, inputs: Tensor, masks: Callable[[Tensor, float], Tensor] | None = None) -> Tensor:
        """Compute all members' logits ``[G, B, C]``.

        inputs: ``[G, B, features]``, or ``[B, G * channels, height, width]``. masks: in training, gives dropout's
        factors for a tensor and a probability, called in the order in which the layers come; ``None`` to evaluate.
        """
        values: dict[fx.Node, Any] = {}
        for node in self._nodes:
            arguments = fx.node.map_arg(node.args, values.__getitem__)
            for used in self._used_up.get(node, ()):
                del values[used]
            if node.op == "placeholder":
                values[node] = _Value(inputs, images=inputs.ndim == 4)
            elif node.op == "call_module":
                values[node] = self._layer(str(node.target), arguments[0], masks)
            elif node.op == "output":
                return self._features(arguments[0])
            elif node.target is torch.cat:
                values[node] = self._joined(arguments[0])
            elif node.target in ADDITIONS:
                values[node] = _Value(arguments[0].tensor + arguments[1].tensor, arguments[0].images)
            elif node.target in (torch.flatten, "flatten"):
                values[node] = _Value(self._features(arguments[0]), images=False)
            else:
                options = {key: value for key, value in node.kwargs.items() if key != "inplace"}
                values[node] = self._pointwise(functools.partial(node.target, **options), arguments[0])
        raise AssertionError("a traced network ends with its output")

    def _layer(self, name: str, value: _Value, masks: Callable[[Tensor, float], Tensor] | None) -> _Value:
        module, tensor = self._modules[name], value.tensor
        if isinstance(module, nn.Linear):
            return _Value(self._linear(name, module, self._features(value)), images=False)
        if isinstance(module, nn.Conv2d):
            return _Value(self._convolution(name, module, tensor), images=True)
        if isinstance(module, NORMS):
            return self._norm(name, module, value, training=masks is not None)
        if isinstance(module, nn.PReLU):
            slopes = self.parameters[f"{name}.weight"].unbind(0)
            return self._one_by_one(value, lambda part, place: F.prelu(part, slopes[place]))
        if isinstance(module, POINTWISE_MODULES):
            return self._pointwise(module, value)
        if isinstance(module, nn.Flatten):
            return _Value(self._features(value), images=False)
        if isinstance(module, DROPOUT_MODULES):
            if masks is None or module.p == 0:
                return value
            return _Value(tensor * masks(tensor, module.p), value.images)
        return _Value(module(tensor), value.images)

    def _linear(self, name: str, module: nn.Linear, features: Tensor) -> Tensor:
        bias = self.parameters[f"{name}.bias"] if module.bias is not None else None
        outputs: Tensor = StackedLinear.apply(features, self.parameters[f"{name}.weight"], bias)
        return outputs

    def _convolution(self, name: str, module: nn.Conv2d, images: Tensor) -> Tensor:
        bias = self.parameters[f"{name}.bias"].flatten() if module.bias is not None else None
        weight = self.parameters[f"{name}.weight"].flatten(0, 1)
        groups = module.groups * self.count
        return F.conv2d(images, weight, bias, module.stride, module.padding, module.dilation, groups)

    def _norm(self, name: str, module: nn.Module, value: _Value, training: bool) -> _Value:
        """Apply a norm to all members' images at once, where that rounds as it should, else to one after the other."""
        if training and f"{name}.num_batches_tracked" in self.buffers:
            self.buffers[f"{name}.num_batches_tracked"] += 1
        found: dict[str, Tensor | None] = {part: self.parameters.get(f"{name}.{part}") for part in ("weight", "bias")}
        found |= {part: self.buffers.get(f"{name}.{part}") for part in ("running_mean", "running_var")}
        own = {part: tensor for part, tensor in found.items() if tensor is not None}
        by_channel = isinstance(module, nn.GroupNorm) or (
            isinstance(module, nn.BatchNorm2d) and _in_whole_vectors(value.tensor, module.num_features, CHANNELS)
        )
        if value.images and by_channel:
            flat = {part: tensor.flatten() for part, tensor in own.items()}
            return _Value(_normed(module, value.tensor, flat, training, groups=self.count), images=True)
        each = [{part: tensor[place] for part, tensor in own.items()} for place in range(self.count)]
        return self._one_by_one(value, lambda part, place: _normed(module, part, each[place], training))

    def _pointwise(self, function: Callable[[Tensor], Tensor], value: _Value) -> _Value:
        if _in_whole_vectors(value.tensor, value.tensor.numel() // self.count, NUMBERS):
            return _Value(function(value.tensor), value.images)
        # Cloned, for a function may change its input in place.
        return self._one_by_one(value, lambda part, _: function(part.clone()))

    def _one_by_one(self, value: _Value, layer: Callable[[Tensor, int], Tensor]) -> _Value:
        """Apply a layer to each member's part, given with its place: it is then computed as in a member alone."""
        if not value.images:
            return _Value(torch.stack([layer(part, place) for place, part in enumerate(value.tensor)]), images=False)
        parts = value.tensor.unflatten(1, (self.count, -1)).unbind(1)
        outputs = [layer(part.contiguous(memory_format=torch.channels_last), place) for place, part in enumerate(parts)]
        joined = torch.stack(outputs, dim=1).flatten(1, 2)
        return _Value(joined.contiguous(memory_format=torch.channels_last), images=True)

    def _joined(self, values: Sequence[_Value]) -> _Value:
        """Join channels of images, or features, each member's with its own."""
        if not values[0].images:
            return _Value(torch.cat([value.tensor for value in values], dim=2), images=False)
        members = torch.cat([value.tensor.unflatten(1, (self.count, -1)) for value in values], dim=2)
        return _Value(members.flatten(1, 2).contiguous(memory_format=torch.channels_last), images=True)

    def _features(self, value: _Value) -> Tensor:
        """Turn images ``[B, G * C, H, W]`` into features ``[G, B, C * H * W]``; features stay as they are."""
        if not value.images:
            return value.tensor
        members: Tensor = value.tensor.unflatten(1, (self.count, -1))
        return members.transpose(0, 1).flatten(2)

    def _check(self) -> None:
        """Refuse every layer and operation whose stacked form is not known."""
        # Layers first: their names say more than those of the operations around them.
        for node in self._nodes:
            if node.op == "call_module":
                self._check_module(str(node.target))
        for node in self._nodes:
            if node.op not in ("placeholder", "call_module", "output") and not self._is_known(node):
                raise NotStackable(f"it uses {getattr(node.target, '__name__', node.target)}")

    def _is_known(self, node: fx.Node) -> bool:
        if node.target in (torch.flatten, "flatten"):
            return bool(node.args[1:] == (1,) or node.kwargs.get("start_dim") == 1)
        if node.target is torch.cat:
            axis = node.args[1:] or (node.kwargs.get("dim"),)
            return bool(node.args) and axis == (1,) and isinstance(node.args[0], (list, tuple))
        tensors = [argument for argument in node.args if isinstance(argument, fx.Node)]
        if node.target in ADDITIONS:
            return len(tensors) == len(node.args) == 2 and not node.kwargs
        return node.target in POINTWISE_FUNCTIONS and len(node.args) == 1

    def _check_module(self, name: str) -> None:
        module = self._modules[name]
        kind = type(module)
        named = f"its layer {name} ({kind.__name__})"
        if kind in (nn.BatchNorm1d, nn.BatchNorm2d):
            if not (module.affine and module.track_running_stats and module.momentum is not None):
                raise NotStackable(f"{named} is not the usual kind")
        elif kind is nn.InstanceNorm2d:
            if module.track_running_stats:
                raise NotStackable(f"{named} is not the usual kind")
        elif kind is nn.Conv2d:
            if module.padding_mode != "zeros" or isinstance(module.padding, str):
                raise NotStackable(f"{named} pads in another way than with zeros")
        elif kind is nn.Flatten:
            if (module.start_dim, module.end_dim) != (1, -1):
                raise NotStackable(f"{named} flattens in another way than all but the batch")
        elif kind not in (nn.Linear, *NORMS, nn.PReLU, *POINTWISE_MODULES, *POOLING_MODULES, *DROPOUT_MODULES):
            raise NotStackable(named)
        if any(hooks for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)):
            raise NotStackable(f"{named} has hooks")


def _in_whole_vectors(tensor: Tensor, count: int, step: int) -> bool:
    """Say whether a processor takes so many numbers in whole vectors: it rounds those left over in another way."""
    return tensor.device.type != "cpu" or count % step == 0


def _normed(module: nn.Module, inputs: Tensor, own: Mapping[str, Tensor], training: bool, groups: int = 1) -> Tensor:
    """Compute one of ``NORMS`` with other weights and buffers, ``groups`` times as many of them."""
    weight, bias = own.get("weight"), own.get("bias")
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(inputs, groups * module.num_groups, weight, bias, module.eps)
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(inputs, module.normalized_shape, weight, bias, module.eps)
    if isinstance(module, nn.InstanceNorm2d):
        return F.instance_norm(inputs, weight=weight, bias=bias, eps=module.eps)
    assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.momentum is not None
    running = own["running_mean"], own["running_var"]
    return F.batch_norm(inputs, *running, weight, bias, training, module.momentum, module.eps)
