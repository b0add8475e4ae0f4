"""One process for each core or GPU, one member at a time in each: any model, any data, bit for bit the plain loop."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from seedvote.engines.footprint import memory_note
from seedvote.engines.sequential import train_one_by_one
from seedvote.engines.workers import train_in_processes, worker_count
from seedvote.events import Event, Keeper, Note
from seedvote.training import UNKEPT
from seedvote.types import Data, Recipe


@dataclass(frozen=True)
class Process:
    """Trains several members at once, each in a process of its own.

    workers: how many; ``None`` for one for each GPU, or one for each core that ``threads`` leaves.
    """

    workers: int | None = None
    name: str = "process"

    def __post_init__(self) -> None:
        """Refuse a number of workers that makes no sense."""
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"engine.workers must be at least 1, or null for one a core, got {self.workers}")

    def train(
        self, seeds: Sequence[int], recipe: Recipe, data: Data, device: torch.device, keeper: Keeper = UNKEPT
    ) -> Iterator[Event]:
        """Train one member for each seed, in the order in which workers become free."""
        tasks = [(seed,) for seed in seeds]
        workers = self.workers or worker_count(device)
        trainer = functools.partial(train_one_by_one, engine=self.name)
        if tasks:
            yield Note(memory_note(tasks, workers, recipe, data, processes=min(workers, len(tasks))))
            yield from train_in_processes(tasks, trainer, workers, recipe, data, device, keeper)
