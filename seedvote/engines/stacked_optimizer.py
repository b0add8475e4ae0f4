"""How stacked members take their steps: the state of optimizer and schedule belongs to each member by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seedvote.engines.stacked import NUMBERS, Stacked
from seedvote.optimization import (
    Schedule,
    group_numbers,
    optimizer_state,
    parameter_groups,
    restore_optimizer,
    schedule_after,
)
from seedvote.types import Recipe, Snapshot

# They treat every number of a tensor by itself, so that stacking the tensors changes nothing.
ELEMENTWISE = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.RMSprop, torch.optim.Rprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD,
)  # fmt: skip


@dataclass
class StackedOptimizer:
    """The optimizers of stacked members and their schedules: one of each for all members, or one for each member."""

    network: Stacked
    optimizers: list[torch.optim.Optimizer]
    schedules: list[Schedule]

    def step(self) -> None:
        """Take a step by the gradients of the stacked parameters."""
        self.network.hand_out_gradients()
        for optimizer in self.optimizers:
            optimizer.step()
        for schedule in self.schedules:
            schedule.after_step()

    def zero_grad(self) -> None:
        """Forget the gradients of the stacked parameters; those of the members' own parts are replaced at each step."""
        for parameter in self.network.parameters.values():
            parameter.grad = None

    def after_epoch(self, validation_losses: Sequence[float]) -> None:
        """Let the schedules take note of an epoch and of each member's validation loss after it."""
        # One schedule for all is one that takes no notice of losses.
        for schedule, loss in zip(self.schedules, validation_losses, strict=False):
            schedule.after_epoch(loss)

    def learning_rate(self, place: int) -> float:
        """Return a member's learning rate."""
        rate: float = _of(self.optimizers, place).param_groups[0]["lr"]
        return rate

    def states(self) -> list[tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]]:
        """Return each member's part of the state, copied to the CPU by parameter, and its groups' numbers."""
        network, whole = self.network, optimizer_state(self.optimizers[0], self.network.whole)
        found = []
        for place in range(network.count):
            own = _of(self.optimizers, place)
            state = optimizer_state(own, network.parts_of(place)) | _part(whole, network, place)
            found.append((state, group_numbers(own)))
        return found


def standing_optimizer(
    recipe: Recipe, network: Stacked, snapshots: Sequence[Snapshot | None], steps_an_epoch: int
) -> StackedOptimizer:
    """Build optimizers and schedules for stacked members: at their beginning, or where all of them were saved."""
    optimizers = _optimizers(recipe, network)
    known = [snapshot for snapshot in snapshots if snapshot is not None]
    stands = [(snapshot.history, snapshot.step) for snapshot in known] or [((), 0)] * network.count
    # One optimizer for all has one schedule for all, which any member's history leads to.
    schedules = [
        schedule_after(history, step, optimizer, recipe, steps_an_epoch)
        for optimizer, (history, step) in zip(optimizers, stands, strict=False)
    ]
    _restore(optimizers, network, known)
    return StackedOptimizer(network, optimizers, schedules)


def _optimizers(recipe: Recipe, network: Stacked) -> list[torch.optim.Optimizer]:
    """Build the recipe's optimizer over the stacked parameters, or one for each member over its own parts of them.

    Members have an optimizer each if their validation loss decides on the learning rate, or if the optimizer is not
    known to treat every number by itself. One with ``fused=True`` rounds the end of a tensor otherwise than its middle,
    and so takes each member's part by itself, in the same pass, where a part does not fill whole vectors.
    """
    optimizer = recipe.build_optimizer(_groups(network, recipe))
    if type(optimizer) not in ELEMENTWISE or recipe.interval == "validation":
        network.split(network.parameters)
        members = [network.parts_of(place) for place in range(network.count)]
        return [recipe.build_optimizer(parameter_groups(own.values(), recipe.decay_all)) for own in members]
    if optimizer.defaults.get("fused"):
        sizes = {name: parameter[0].numel() for name, parameter in network.parameters.items()}
        network.split(name for name, size in sizes.items() if size % NUMBERS)
        optimizer = recipe.build_optimizer(_groups(network, recipe))
    return [optimizer]


def _groups(network: Stacked, recipe: Recipe) -> list[dict[str, Any]]:
    """Group stacked parameters, and the members' parts of what is split, for one optimizer."""
    parts = [part for place in range(network.count) for part in network.parts_of(place).values()]
    return parameter_groups(parts, recipe.decay_all, stacked=network.whole.values())


def _restore(optimizers: Sequence[torch.optim.Optimizer], network: Stacked, snapshots: Sequence[Snapshot]) -> None:
    """Put the optimizers to the state that the members had when they were saved, if they were."""
    if not snapshots:
        return
    assert len(snapshots) == network.count
    for place, snapshot in enumerate(snapshots):
        own = _of(optimizers, place)
        restore_optimizer(own, network.parts_of(place), snapshot.optimizer, snapshot.groups)
    first, whole = snapshots[0], network.whole
    state = {
        name: {key: _joined(network, name, key, [each.optimizer[name][key] for each in snapshots]) for key in entries}
        for name, entries in first.optimizer.items()
        if name in whole
    }
    restore_optimizer(optimizers[0], whole, state, first.groups)


def _of(optimizers: Sequence[torch.optim.Optimizer], place: int) -> torch.optim.Optimizer:
    return optimizers[place if len(optimizers) > 1 else 0]


def _part(whole: Mapping[str, Mapping[str, Any]], network: Stacked, place: int) -> dict[str, dict[str, Any]]:
    """Return one member's part of the state; numbers that are the same for all are everybody's."""

    def own(name: str, value: Any) -> Any:
        return value[place] if isinstance(value, Tensor) and value.shape == network.parameters[name].shape else value

    return {name: {key: own(name, value) for key, value in entries.items()} for name, entries in whole.items()}


def _joined(network: Stacked, name: str, key: str, values: Sequence[Any]) -> Any:
    """Stack the members' parts again; what has not the shape of its parameter is the same for all."""
    value, shape = values[0], network.parameters[name].shape[1:]
    if key == "step" or not isinstance(value, Tensor) or value.shape != shape:
        return value
    return torch.stack(list(values))
