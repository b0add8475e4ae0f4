"""One member after another: the reference that every other engine is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from seedvote.training import on_device, train_member
from seedvote.types import Data, EpochRecord, Progress, Recipe, TrainedMember


@dataclass(frozen=True)
class Sequential:
    """Trains the members one after another in this process."""

    name: str = "sequential"

    def train(
        self, seeds: Sequence[int], recipe: Recipe, data: Data, device: torch.device
    ) -> Iterator[Progress | TrainedMember]:
        """Train one member for each seed, in the order given."""
        yield from train_one_by_one(seeds, recipe, on_device(data, device), device)


def train_one_by_one(
    seeds: Sequence[int], recipe: Recipe, data: Data, device: torch.device
) -> Iterator[Progress | TrainedMember]:
    """Train members in turn; the data lies on the device already."""
    for seed in seeds:
        for event in train_member(seed, recipe, data, device):
            yield Progress(seed, event) if isinstance(event, EpochRecord) else event
