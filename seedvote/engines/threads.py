"""Threads that train one task after another: at work at once, where a process needs seconds to import torch.

They are for trainers that draw from generators of their own, in large operations: between operations Python runs one
thread at a time.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue

import torch

from seedvote.engines.keeping import Task, Trainer, train_whole_task
from seedvote.events import Event, Keeper
from seedvote.interruption import asked_to_stop, requested
from seedvote.types import Data, Recipe

NAME = "seedvote-group"


def train_in_threads(
    tasks: Sequence[Task],
    trainer: Trainer,
    workers: int,
    recipe: Recipe,
    data: Data,
    device: torch.device,
    keeper: Keeper,
) -> Iterator[Event]:
    """Spread tasks over threads, in each of which torch has as many threads of its own as it has here.

    The data lies on the device already. Whoever takes no more events makes the members pause at their next step.
    """
    pending = deque(tasks)
    events: SimpleQueue[Event | None] = SimpleQueue()
    count = torch.get_num_threads()

    def work() -> None:
        torch.set_num_threads(count)
        own = copy.deepcopy(keeper)  # it notes when it saved last
        try:
            while requested() is None and (task := _next(pending)) is not None:
                for event in train_whole_task(trainer, task, recipe, data, device, own):
                    events.put(event)
        finally:
            events.put(None)

    names = [f"{NAME}-{place}" for place in range(min(workers, len(tasks)))]
    crew = [threading.Thread(target=work, name=name, daemon=True) for name in names]
    for thread in crew:
        thread.start()
    try:
        for _ in crew:
            while (event := events.get()) is not None:
                yield event
    except BaseException:  # a second Ctrl-C, or nobody listens any more
        with asked_to_stop():
            for thread in crew:
                thread.join()
        raise


def _next(pending: deque[Task]) -> Task | None:
    with suppress(IndexError):  # another thread may take the last one between a look and a grasp
        return pending.popleft()
    return None
