"""The optimizer and the schedule of a member: building them, and putting them back where they stood."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seedvote.types import Recipe

Scheduler = torch.optim.lr_scheduler.LRScheduler


def parameter_groups(
    parameters: Iterable[nn.Parameter], decay_all: bool, stacked: bool = False
) -> list[dict[str, Any]]:
    """Group parameters for the optimizer; one-dimensional ones (biases, norms) get no weight decay.

    decay_all: one group with everything, so that weight decay holds all parameters. stacked: the parameters have a
    first axis of members, which does not count.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if decay_all:
        return [{"params": trained}]
    matrices = [parameter for parameter in trained if parameter.ndim - stacked > 1]
    vectors = [parameter for parameter in trained if parameter.ndim - stacked <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def scheduler_after(steps: int, total_steps: int, optimizer: torch.optim.Optimizer, recipe: Recipe) -> Scheduler:
    """Build the recipe's scheduler and step it as often as the member was; it needs no state of its own so."""
    scheduler = recipe.build_scheduler(optimizer, total_steps)
    with warnings.catch_warnings():
        # The optimizer's own steps were taken before the break.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(steps):
            scheduler.step()
    return scheduler


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Copy an optimizer's state to the CPU, by the names of the parameters."""
    return {
        name: {key: _copied(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in parameters.items()
        if parameter in optimizer.state
    }


def group_numbers(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the numbers in an optimizer's parameter groups; some optimizers keep state there."""
    return [{key: value for key, value in group.items() if _is_plain(value)} for group in optimizer.param_groups]


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    state: Mapping[str, Mapping[str, Any]],
    groups: Iterable[Mapping[str, Any]],
) -> None:
    """Put an optimizer back to the state that ``optimizer_state`` and ``group_numbers`` once gave."""
    for group, numbers in zip(optimizer.param_groups, groups, strict=True):
        # JSON knows lists, torch's betas are tuples.
        group.update({key: tuple(value) if isinstance(value, list) else value for key, value in numbers.items()})
        on_device = bool(group.get("fused") or group.get("capturable"))
        for name, parameter in parameters.items():
            if name in state and any(parameter is own for own in group["params"]):
                optimizer.state[parameter] = {
                    key: _placed(value, parameter, on_device or key != "step") for key, value in state[name].items()
                }


def _copied(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _placed(value: Any, parameter: Tensor, on_device: bool) -> Any:
    """Return a value where the optimizer wants it, laid out in memory like its parameter, so that it rounds alike."""
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value.to(parameter.device if on_device else "cpu")


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (int, float)) for item in value)
    return isinstance(value, (int, float, str, type(None)))
