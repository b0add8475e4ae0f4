"""What all engines do around the training of a task: claim its members, store each that is done, report errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from seedvote.engines.memory import is_out_of_memory
from seedvote.errors import NotSaved
from seedvote.events import Elsewhere, Event, Failure, Keeper, Note, Paused, Progress
from seedvote.types import Data, Recipe, TrainedMember

# A task is the seeds that are trained at a time. A trainer is a module's function, so that workers find it too.
Task = Sequence[int]
Trainer = Callable[[Task, Recipe, Data, torch.device, Keeper], Iterator[Event]]


def train_task(
    trainer: Trainer, task: Task, recipe: Recipe, data: Data, device: torch.device, keeper: Keeper
) -> Iterator[Event]:
    """Train the members of a task that nobody else holds; the data lies on the device already.

    A file that cannot be written is told as a failure of its member; the others go on, from where they were saved. A
    lack of memory ends the task and is a failure of all its members.
    """
    undone = list(task)
    while undone:
        try:
            with keeper.claim(undone) as mine:
                elsewhere = [seed for seed in undone if seed not in mine]
                undone = list(mine)
                yield from map(Elsewhere, elsewhere)
                for event in trainer(mine, recipe, data, device, keeper) if mine else ():
                    told = _stored(event, keeper) if isinstance(event, TrainedMember) else event
                    if isinstance(told, (TrainedMember, Paused, Failure)):
                        undone.remove(told.seed)
                    yield from map(Note, keeper.notes())
                    yield told
            return
        except (OSError, MemoryError, RuntimeError) as error:
            reason = _reason(error)
            if reason is None:
                raise
            concerned = error.seeds if isinstance(error, NotSaved) else undone
            lost = [seed for seed in undone if seed in concerned] or undone
            undone = [seed for seed in undone if seed not in lost]
            yield from [Failure(seed, reason, retried=False) for seed in lost]


def train_whole_task(
    trainer: Trainer, task: Task, recipe: Recipe, data: Data, device: torch.device, keeper: Keeper
) -> Iterator[Event]:
    """Train as ``train_task`` does, in a worker that goes on with other tasks: whatever else is raised is a failure."""
    undone = list(task)
    try:
        for event in train_task(trainer, task, recipe, data, device, keeper):
            yield event
            if not isinstance(event, (Progress, Note)):
                undone.remove(event.seed)
    except Exception as error:
        yield from [Failure(seed, f"{type(error).__name__}: {error}", retried=False) for seed in undone]


def _stored(member: TrainedMember, keeper: Keeper) -> TrainedMember | Failure:
    try:
        keeper.finish(member)
    except OSError as error:
        return Failure(member.seed, _unwritable(error), retried=False)
    return member


def _reason(error: Exception) -> str | None:
    if isinstance(error, OSError):
        return _unwritable(error)
    if is_out_of_memory(error):
        return "out of memory: lower batch_size, engine.workers or the size of the model"
    return None


def _unwritable(error: OSError) -> str:
    return f"{error.filename or 'a file'} cannot be written: {error.strerror or error}; what was saved before is whole"
