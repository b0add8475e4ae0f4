"""The optimizer and the schedule of a member: building them, and putting them back where they stood."""

from __future__ import annotations

import functools
import math
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seedvote.regularization import is_matrix
from seedvote.types import EpochRecord, Recipe

MOST_TRIED = 1000  # steps of a schedule before anything is written
# torch can take their steps in one pass over weights and state on every kind of device that seedvote trains on.
ONE_PASS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
_WARNINGS = threading.Lock()  # what is ignored is the whole process's


@dataclass(frozen=True)
class Schedule:
    """A torch scheduler and when it is stepped: one of ``seedvote.types.INTERVALS``."""

    scheduler: torch.optim.lr_scheduler.LRScheduler
    interval: str

    def after_step(self) -> None:
        """Take note of a step of the optimizer."""
        if self.interval == "step":
            self.scheduler.step()

    def after_epoch(self, validation_loss: float) -> None:
        """Take note of an epoch and of the validation loss (nats) after it."""
        if self.interval == "epoch":
            with _WARNINGS, warnings.catch_warnings():
                # After a break between an epoch's last step and its end, torch has not seen the optimizer's steps.
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
                self.scheduler.step()
        elif self.interval == "validation":
            self.scheduler.step(validation_loss)  # type: ignore[arg-type]  # ReduceLROnPlateau takes a float


def in_one_pass(build: functools.partial[Any]) -> functools.partial[Any]:
    """Let an optimizer be built with ``fused=True`` where it can be, unless its options say how steps are taken.

    A step is several times as quick then where weights and state do not fit the processor's cache.
    """
    said = build.keywords.keys() & {"fused", "foreach", "differentiable"}
    return functools.partial(build, fused=True) if build.func in ONE_PASS and not said else build


def parameter_groups(
    parameters: Iterable[nn.Parameter], decay_all: bool, stacked: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Group parameters for the optimizer; one-dimensional ones (biases, norms) get no weight decay.

    decay_all: one group with everything, so that weight decay holds all parameters. stacked: further parameters, with
    a first axis of members, which does not count.
    """
    known = [*((parameter, False) for parameter in parameters), *((parameter, True) for parameter in stacked)]
    trained = [(parameter, is_stacked) for parameter, is_stacked in known if parameter.requires_grad]
    if decay_all:
        return [{"params": [parameter for parameter, _ in trained]}]
    matrices = [parameter for parameter, is_stacked in trained if is_matrix(parameter, is_stacked)]
    vectors = [parameter for parameter, is_stacked in trained if not is_matrix(parameter, is_stacked)]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, total_steps: int) -> Schedule:
    """Build the recipe's schedule at its beginning.

    Raises:
        ValueError: it is to be stepped at another time than its kind can be.
    """
    scheduler = recipe.build_scheduler(optimizer, total_steps)
    kind, by_loss = type(scheduler).__name__, isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    if by_loss and recipe.interval != "validation":
        raise ValueError(
            f"scheduler.interval must be validation for {kind}, which acts on the validation loss, "
            f"got {recipe.interval}"
        )
    if not by_loss and recipe.interval == "validation":
        raise ValueError(f"scheduler.interval=validation is for ReduceLROnPlateau alone, not for {kind}: use epoch")
    if by_loss and getattr(scheduler, "mode", "min") != "min":
        raise ValueError(f"scheduler.mode must be min for {kind}: the validation loss is better when it is lower")
    return Schedule(scheduler, recipe.interval)


def try_schedule(schedule: Schedule, optimizer: torch.optim.Optimizer, epochs: int, steps_an_epoch: int) -> None:
    """Go through a schedule, or its beginning, as if no epoch were better than the first.

    Raises:
        ValueError: it cannot be stepped, or leads to a learning rate that is negative or not finite.
    """
    per_epoch = steps_an_epoch if schedule.interval == "step" else 1
    for time in range(1, min(epochs * per_epoch, MOST_TRIED) + 1):
        try:
            schedule.after_step()
            schedule.after_epoch(1.0)
        except Exception as error:
            raise ValueError(f"the schedule cannot be stepped: {type(error).__name__}: {error}") from error
        for group in optimizer.param_groups:
            if not 0 <= group["lr"] < math.inf:
                raise ValueError(f"the schedule leads to a learning rate of {group['lr']} when stepped {time} times")


def schedule_after(
    history: Sequence[EpochRecord], step: int, optimizer: torch.optim.Optimizer, recipe: Recipe, steps_an_epoch: int
) -> Schedule:
    """Build the recipe's schedule and step it as the member's was; it needs no state of its own so.

    history: the epochs that are over. step: how many steps of the next were taken.
    """
    schedule = build_schedule(optimizer, recipe, recipe.epochs * steps_an_epoch)
    with warnings.catch_warnings():
        # The optimizer's own steps were taken before the break.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for record in history:
            for _ in range(steps_an_epoch):
                schedule.after_step()
            schedule.after_epoch(record.validation_loss)
        for _ in range(step):
            schedule.after_step()
    return schedule


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
    # A copy: members that stand alike are put back from one snapshot, and each counts its own steps.
    return value.to(parameter.device if on_device else "cpu", copy=True)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (int, float)) for item in value)
    return isinstance(value, (int, float, str, type(None)))
