"""Takes the engine that is quickest for this network, these data and this machine, by timing a few real steps."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from seedvote import training
from seedvote.course import Course, steps_an_epoch
from seedvote.engines import fused
from seedvote.engines.group import Lap, standing_group, train_epoch
from seedvote.engines.keeping import Task
from seedvote.engines.process import Process
from seedvote.engines.sequential import Sequential
from seedvote.engines.workers import worker_count
from seedvote.errors import listed
from seedvote.events import Engine, Event, Keeper, Note
from seedvote.initialization import initial_model
from seedvote.interruption import requested
from seedvote.optimization import Schedule, parameter_groups
from seedvote.schedules import constant
from seedvote.seeding import Streams, restored_generators
from seedvote.training import UNKEPT
from seedvote.types import Data, Recipe, Split

STARTING_A_WORKER = 5.0  # seconds on the two cores of docs/performance.md, mostly importing torch
CROWDING = 1.2  # how much longer a step takes while another process is at work: 1.1 to 1.4, measured there
NOT_WORTH_TIMING = 5.0  # seconds of training, of which timing would take more than it could save
SHARE = 0.05  # of the expected training time that may be spent on choosing
WARM_UP, TIMED = 3, 7  # steps
FEWEST, ENOUGH = 3, 0.15  # steps, and seconds after which no more are timed
TRIED = 8  # steps, about, that a member takes to see whether stacks round alike

Epoch = Callable[[Data], Iterator[None]]  # takes the steps of an epoch of some data


@dataclass(frozen=True)
class Choice:
    """An engine and how many seconds all members are expected to take with it."""

    engine: Engine
    label: str
    seconds: float


@dataclass(frozen=True)
class Auto:
    """Chooses between one after another, in processes or threads, stacked, and stacked in threads or processes.

    exact: take stacking only where it gives the plain loop's weights bit for bit, so that a member that is trained
    alone today and among others tomorrow is the same.
    """

    exact: bool = True
    name: str = "auto"

    def train(
        self, seeds: Sequence[int], recipe: Recipe, data: Data, device: torch.device, keeper: Keeper = UNKEPT
    ) -> Iterator[Event]:
        """Train one member for each seed with the quickest engine, and say which that is."""
        here, kinds = training.on_device(data, device), recipe.alike(seeds)
        found = [estimates(len(kind), recipe.of(kind[0]), here, device, self.exact) for kind in kinds]
        apart = sum(min(choice.seconds for choice in choices) for choices in found)
        workers = min(worker_count(device), len(seeds))
        if workers > 1 and len(kinds) > 1:
            # Members of one variant after those of another, or one beside the other.
            beside = STARTING_A_WORKER + sum(choices[0].seconds for choices in found) / workers * CROWDING
            if beside < apart:
                slower = f"one variant after the other {apart / beside:.1f} x as long"
                yield Note(f"engine     process, about {beside:.0f} s ({slower})")
                yield from Process().train(seeds, recipe, data, device, keeper)
                return
        for kind, choices in zip(kinds, found, strict=True):
            if requested() is None:
                best = min(choices, key=lambda choice: choice.seconds)
                yield Note(f"engine     {_announced(best, choices)}" + (f": seeds {listed(kind)}" if kinds[1:] else ""))
                yield from best.engine.train(kind, recipe, data, device, keeper)


def _announced(best: Choice, choices: Sequence[Choice]) -> str:
    slower = ", ".join(
        f"{choice.label} {choice.seconds / best.seconds:.1f} x" for choice in choices if choice is not best
    )
    return f"{best.label}, about {best.seconds:.0f} s" + (f" ({slower} as long)" if slower else "")


def estimates(members: int, recipe: Recipe, data: Data, device: torch.device, exact: bool) -> list[Choice]:
    """Return every eligible engine with the time that it would take, from a few timed steps of each.

    The first says how long the members take one after another.
    """
    steps = recipe.epochs * steps_an_epoch(recipe, data)
    alone = steps * seconds_a_step([_alone(recipe, device)], recipe, data)
    choices = [Choice(Sequential(), "sequential", members * alone)]
    workers = worker_count(device)
    crowd = min(workers, members)
    if crowd > 1:
        rounds = -(-members // crowd)
        choices.append(Choice(Process(), "process", STARTING_A_WORKER + rounds * alone * CROWDING))
    if members == 1 or fused.why_not_stackable(recipe, data) is not None:
        return choices
    worth_timing = members * alone >= NOT_WORTH_TIMING
    if worth_timing and TRIED + FEWEST * crowd > SHARE * members * steps:
        return choices
    widest = fused.default_width(recipe, data, device)
    in_threads = crowd > 1 and fused.default_spread(crowd, device) == "threads"
    stackable = not exact or (widest > 1 and fused.rounds_alike(recipe, data))
    if stackable and not worth_timing:
        return [Choice(fused.Fused(workers=1), "fused", members * alone)]
    width = None
    least, widest = fused.stack_sizes(recipe, data, device, widest) if stackable else (1, 1)
    if not exact or widest > 1:
        plans = [(1, "fused")]
        if crowd > 1:
            plans.append((crowd, f"fused in {crowd} {'threads' if in_threads else 'processes'}"))
    elif in_threads and worth_timing and fused.rounds_alike(recipe, data, count=1):
        width = 1  # such a stack rounds as the plain loop does, and threads need not be started for seconds
        plans = [(crowd, f"{crowd} threads")]
    else:
        return choices
    for count, label in plans:
        tasks = fused.groups(range(members), widest, count)
        # Threads share caches and Python, so they are timed while all of them are at work.
        beside = tasks[: count if in_threads else 1]
        epochs = [_stacked(task, least, recipe, data, device) for task in beside]
        seconds = -(-len(tasks) // count) * steps * seconds_a_step(epochs, recipe, data)
        seconds += STARTING_A_WORKER if count > 1 and not in_threads else 0.0
        choices.append(Choice(fused.Fused(width, count), label, seconds))
    return choices


def seconds_a_step(epochs: Sequence[Epoch], recipe: Recipe, data: Data) -> float:
    """Return how long one training step takes, the median over a few after the first ones; of slow steps over fewer.

    epochs: several are timed at once, in threads; then it is the slowest one's step.
    """
    count = recipe.batch_size
    batch = dataclasses.replace(data, train=Split(data.train.inputs[:count], data.train.labels[:count]))

    def timed(epoch: Epoch) -> float:
        times: list[float] = []
        while len(times) < WARM_UP + TIMED and (len(times) < FEWEST or sum(times) < ENOUGH):
            started = time.perf_counter()
            list(epoch(batch))
            times.append(time.perf_counter() - started)
        return statistics.median(times[min(WARM_UP, len(times) // 2) :])

    if len(epochs) == 1:
        return timed(epochs[0])
    with ThreadPoolExecutor(
        len(epochs), initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
    ) as pool:
        return max(pool.map(timed, epochs))


def _alone(recipe: Recipe, device: torch.device) -> Epoch:
    streams = Streams(0, recipe.vary, recipe.shared_seed)
    model = initial_model(recipe, streams).to(device).to(memory_format=torch.channels_last)
    optimizer = recipe.build_optimizer(parameter_groups(model.parameters(), recipe.decay_all))
    schedule = Schedule(constant(optimizer, 1), "step")

    def epoch(batch: Data) -> Iterator[None]:
        with restored_generators(device):
            yield from training.train_epoch(Course(0, None, {}), model, optimizer, schedule, recipe, batch, streams)

    return epoch


def _stacked(task: Task, least: int, recipe: Recipe, data: Data, device: torch.device) -> Epoch:
    group = standing_group(dict.fromkeys(task), recipe, data, device, least)
    # The steps that are timed are none of training's: some schedules refuse more steps than there are.
    group.optimizer.schedules = [Schedule(constant(own, 1), "step") for own in group.optimizer.optimizers]

    def epoch(batch: Data) -> Iterator[None]:
        group.lap = Lap(1, 0, torch.zeros_like(group.lap.loss_sums))
        return train_epoch(group, recipe, batch)

    return epoch
