"""One optimizer for stacked members: its state belongs to each member by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seedvote.engines.stacked import Stacked
from seedvote.optimization import optimizer_state, parameter_groups, restore_optimizer
from seedvote.types import Recipe, Snapshot

# They treat every number of a tensor by itself, so that stacking the tensors changes nothing.
ELEMENTWISE = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam,
    torch.optim.RMSprop, torch.optim.Rprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD,
)  # fmt: skip


def build_optimizer(recipe: Recipe, network: Stacked) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over the stacked parameters.

    One that is not known to treat every number by itself gets each member's own part of every tensor. So does one with
    ``fused=True``: it takes all parts in one pass, but rounds the end of a tensor otherwise than its middle.
    """
    optimizer = recipe.build_optimizer(parameter_groups(network.parameters.values(), recipe.decay_all, stacked=True))
    if type(optimizer) in ELEMENTWISE and not optimizer.defaults.get("fused"):
        return optimizer
    return recipe.build_optimizer(parameter_groups(network.split().values(), recipe.decay_all))


def member_states(optimizer: torch.optim.Optimizer, network: Stacked) -> list[dict[str, dict[str, Any]]]:
    """Copy each member's part of the optimizer's state to the CPU, by the names of the parameters."""
    if network.is_split:
        return [optimizer_state(optimizer, network.parts_of(place)) for place in range(network.count)]
    whole = optimizer_state(optimizer, network.parameters)

    def part(name: str, value: Any, place: int) -> Any:
        return value[place] if isinstance(value, Tensor) and value.shape == network.parameters[name].shape else value

    return [
        {name: {key: part(name, value, place) for key, value in entries.items()} for name, entries in whole.items()}
        for place in range(network.count)
    ]


def restore_members(optimizer: torch.optim.Optimizer, network: Stacked, snapshots: Sequence[Snapshot | None]) -> None:
    """Put the optimizer to the state that the members had when they were saved, all at the same step, or never."""
    known = [snapshot for snapshot in snapshots if snapshot is not None]
    if not known:
        return
    assert len(known) == len(snapshots) == network.count
    if network.is_split:
        for place, snapshot in enumerate(known):
            restore_optimizer(optimizer, network.parts_of(place), snapshot.optimizer, snapshot.groups)
        return
    first = known[0]
    state = {
        name: {key: _joined([each.optimizer[name] for each in known], key) for key in entries}
        for name, entries in first.optimizer.items()
    }
    restore_optimizer(optimizer, network.parameters, state, first.groups)


def _joined(entries: Sequence[Mapping[str, Any]], key: str) -> Any:
    # How many steps were taken is the same for all.
    if key == "step" or not isinstance(entries[0][key], Tensor):
        return entries[0][key]
    return torch.stack([entry[key] for entry in entries])
