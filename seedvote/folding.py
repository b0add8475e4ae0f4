"""BatchNorm folded into the layer before it: in evaluation both are affine, so that one layer does the work of two."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

CONVOLUTIONS = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))


def folded(model: nn.Module, inputs: Tensor | None) -> nn.Module:
    """Return a copy of a network in evaluation mode with each BatchNorm folded into the layer before it.

    ``W' = W g / sqrt(v + e)`` and ``b' = (b - m) g / sqrt(v + e) + h`` by output, with running mean ``m`` and variance
    ``v``, and BatchNorm's weight ``g``, bias ``h`` and ``e``: for convolutions and linear layers whose output goes
    nowhere else. inputs: a few samples ``[B, ...]`` on which both must agree, if there are any.

    Raises:
        ValueError: the network cannot be traced, or the copy answers otherwise.
    """
    assert not model.training
    try:
        copied = fx.symbolic_trace(copy.deepcopy(model))
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        raise ValueError(
            f"BatchNorm cannot be folded, since the network cannot be traced ({type(error).__name__}: {error}): set "
            "fold_batchnorm=false"
        ) from error
    modules = dict(copied.named_modules())
    calls = Counter(node.target for node in copied.graph.nodes if node.op == "call_module")
    for node in list(copied.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        layer, norm = modules[str(before.target)], modules[str(node.target)]
        fused = _fused(layer, norm) if calls[before.target] == calls[node.target] == 1 else None
        if fused is not None:
            _replace(copied, str(before.target), fused)
            node.replace_all_uses_with(before)
            copied.graph.erase_node(node)
    copied.delete_all_unused_submodules()
    copied.recompile()
    if inputs is not None:
        _check(model, copied, inputs)
    return copied


def _fused(layer: nn.Module, norm: nn.Module) -> nn.Module | None:
    """Return a layer that does the work of both, or ``None`` where they are not of kinds for which there is one."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
        return None
    if type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d:
        return fuse_linear_bn_eval(layer, norm)
    for convolution, its_norm in CONVOLUTIONS:
        if type(layer) is convolution and type(norm) is its_norm:
            return fuse_conv_bn_eval(layer, norm)
    return None


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)


@torch.inference_mode()
def _check(model: nn.Module, copied: nn.Module, inputs: Tensor) -> None:
    """Refuse what folding does not leave alone, such as BatchNorm over another axis than the layer's outputs."""
    before, after = model(inputs), copied(inputs)
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        raise ValueError("the network answers otherwise with BatchNorm folded: set fold_batchnorm=false")
