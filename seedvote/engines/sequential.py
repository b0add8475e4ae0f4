"""One member after another: the reference that every other engine is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from seedvote.engines.footprint import memory_note
from seedvote.engines.keeping import Task, train_task
from seedvote.events import Event, Keeper, Note
from seedvote.interruption import requested
from seedvote.training import UNKEPT, on_device, train_member
from seedvote.types import Data, Recipe, TrainedMember


@dataclass(frozen=True)
class Sequential:
    """Trains the members one after another in this process."""

    name: str = "sequential"

    def train(
        self, seeds: Sequence[int], recipe: Recipe, data: Data, device: torch.device, keeper: Keeper = UNKEPT
    ) -> Iterator[Event]:
        """Train one member for each seed, in the order given."""
        if seeds:
            yield Note(memory_note([(seed,) for seed in seeds], 1, recipe, data))
        data = on_device(data, device)
        for seed in seeds:
            if requested() is not None:
                return
            yield from train_task(train_one_by_one, [seed], recipe, data, device, keeper)


def train_one_by_one(
    seeds: Task, recipe: Recipe, data: Data, device: torch.device, keeper: Keeper, engine: str = "sequential"
) -> Iterator[Event]:
    """Train members in turn; the data lies on the device already. engine: on whose behalf."""
    for seed in seeds:
        for event in train_member(seed, recipe, data, device, keeper):
            yield dataclasses.replace(event, engine=engine) if isinstance(event, TrainedMember) else event
