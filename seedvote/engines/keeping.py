"""What all engines do around the training of a task: claim its members, store each that is done, report errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from seedvote.engines.memory import is_out_of_memory
from seedvote.types import Data, Elsewhere, Event, Failure, Keeper, Note, Recipe, TrainedMember

# A task is the seeds that are trained at a time. A trainer is a module's function, so that workers find it too.
Task = Sequence[int]
Trainer = Callable[[Task, Recipe, Data, torch.device, Keeper], Iterator[Event]]


def train_task(
    trainer: Trainer, task: Task, recipe: Recipe, data: Data, device: torch.device, keeper: Keeper
) -> Iterator[Event]:
    """Train the members of a task that nobody else holds; the data lies on the device already.

    A file that cannot be written, and a lack of memory, end the task and are told as failures of its members.
    """
    with keeper.claim(task) as mine:
        yield from [Elsewhere(seed) for seed in task if seed not in mine]
        undone = list(mine)
        try:
            for event in trainer(mine, recipe, data, device, keeper) if mine else ():
                if isinstance(event, TrainedMember):
                    keeper.finish(event)
                    undone.remove(event.seed)
                yield from map(Note, keeper.notes())
                yield event
        except (OSError, MemoryError, RuntimeError) as error:
            reason = _reason(error)
            if reason is None:
                raise
            yield from [Failure(seed, reason, retried=False) for seed in undone]


def _reason(error: Exception) -> str | None:
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}; what was saved before is whole"
    if is_out_of_memory(error):
        return "out of memory: lower batch_size, engine.workers or the size of the model"
    return None
