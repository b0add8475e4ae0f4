"""Members stacked and trained as one: the same mathematics with far fewer, larger operations.

Each member keeps its own data order, augmentation, dropout, clipping, early stopping and divergence. A member's
arithmetic does not mix with that of its neighbours, so what becomes of it does not depend on who they are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from seedvote.data import evaluation_inputs
from seedvote.engines.footprint import ALONE, footprint, memory_note
from seedvote.engines.group import side_by_side, train_together
from seedvote.engines.keeping import Task, train_task
from seedvote.engines.masks import dropout_masks
from seedvote.engines.memory import is_out_of_memory, release_memory
from seedvote.engines.process import Process
from seedvote.engines.stacked import Graph, NotStackable, Stacked, traced
from seedvote.engines.threads import train_in_threads
from seedvote.engines.workers import train_in_processes, worker_count
from seedvote.errors import listed, unknown
from seedvote.events import Event, Keeper, Note
from seedvote.initialization import initial_model
from seedvote.interruption import requested
from seedvote.schedules import constant
from seedvote.seeding import Streams, restored_generators, seed_device
from seedvote.training import UNKEPT, on_device, train_member
from seedvote.types import Data, Recipe, Snapshot, Split, TrainedMember

# More members than these are trained in several stacks; of convolutional ones on a CPU fewer, whose activations leave
# its cache.
WIDTH = 16
CACHE = 12 * 2**20  # bytes of the largest activation of all members of a stack; docs/performance.md has measurements
# More threads than these wait for one another: Python runs one at a time between operations.
THREADS = 4
SPREADS = ("threads", "processes")
CPU = torch.device("cpu")
NO_GRAPHS: Mapping[int, Graph] = MappingProxyType({})

States = Mapping[int, Mapping[str, Tensor]]  # weights and buffers by name, by seed


@dataclass(frozen=True)
class Fused:
    """Trains groups of members as one network each, the groups spread over threads or processes.

    width: the most members in a group; ``None`` for 16, and with convolutions on a CPU for what keeps their activations
    in the cache. workers: how many groups are trained at a time; ``None`` for one for each GPU or core. spread:
    ``threads``, or ``processes``, which start later and do not wait for one another; ``None`` for threads where a few
    on the CPU will do.
    """

    width: int | None = None
    workers: int | None = None
    spread: str | None = None
    name: str = "fused"

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for key, value in (("width", self.width), ("workers", self.workers)):
            if value is not None and value < 1:
                raise ValueError(f"engine.{key} must be at least 1, or null, got {value}")
        if self.spread not in (None, *SPREADS):
            raise ValueError(unknown("engine.spread", self.spread, SPREADS))

    def train(
        self, seeds: Sequence[int], recipe: Recipe, data: Data, device: torch.device, keeper: Keeper = UNKEPT
    ) -> Iterator[Event]:
        """Train one member for each seed.

        A network that cannot be stacked is left to ``Process``, with a note that says why.
        """
        workers = self.workers or worker_count(device)
        kinds = recipe.alike(seeds)
        tasks: list[Task] = []
        others: list[int] = []
        least: dict[int, int] = {}
        for kind in kinds:
            own = recipe.of(kind[0])
            reason = why_not_stackable(own, data)
            if reason is None:
                fewest, most = stack_sizes(own, data, device, self.width or default_width(own, data, device))
                tasks += groups(kind, most, math.ceil(workers / len(kinds)))
                least |= dict.fromkeys(kind, fewest)
            else:
                yield Note(f"engine=fused cannot train this network: {reason}; engine=process is taken instead")
                others += kind
        if others:
            yield from Process(self.workers).train(others, recipe, data, device, keeper)
        if not tasks or requested() is not None:
            return
        trainer = functools.partial(train_group, least=least)
        at_a_time = min(workers, len(tasks))
        in_processes = at_a_time > 1 and (self.spread or default_spread(workers, device)) == "processes"
        yield Note(memory_note(tasks, at_a_time, recipe, data, at_a_time if in_processes else 0, least))
        if in_processes:
            yield from train_in_processes(tasks, trainer, workers, recipe, data, device, keeper)
        elif at_a_time == 1:
            data = on_device(data, device)
            for task in tasks:
                if requested() is not None:
                    return
                yield from train_task(trainer, task, recipe, data, device, keeper)
        else:
            trainer = functools.partial(trainer, graphs=_graphs(tasks, recipe))
            yield from train_in_threads(tasks, trainer, workers, recipe, on_device(data, device), device, keeper)


def default_width(recipe: Recipe, data: Data, device: torch.device) -> int:
    """Return how many members of a recipe are best stacked, at most."""
    taken = footprint(recipe, data) if device.type == "cpu" and _has_convolutions(recipe) else None
    return WIDTH if taken is None else min(WIDTH, max(1, CACHE // max(1, taken.largest)))


def default_spread(workers: int, device: torch.device) -> str:
    """Return whether so many workers are best threads or processes; several GPUs have a process each."""
    return "threads" if device.type == "cpu" and workers <= THREADS else "processes"


def stack_sizes(recipe: Recipe, data: Data, device: torch.device, widest: int) -> tuple[int, int]:
    """Return how many members are stacked at least and at most, for each to come out the same whoever its company is.

    Grouped convolutions and per-channel layers may round by how many channels there are in all, and by where in a row
    a member's are. Where it shows that they do neither, two are enough, and a stack is as wide as it has members. Where
    only the number counts, a stack is always as wide as can be, and some members are computed for nothing. Where the
    place counts, nobody is stacked.
    """
    if not _has_convolutions(recipe):
        return 1, widest
    if device.type != "cpu" or widest == 1:
        return widest, widest
    recipe, data = _shortened(recipe, data)
    pair = _stacked(range(2), recipe, data)
    turned = (_stacked(range(count)[::-1], recipe, data) for count in {2, min(3, widest), widest})
    if all(_same(range(2), pair, states) for states in turned):
        return 2, widest
    full = range(widest)
    if _same(full, _stacked(full, recipe, data), _stacked(full[::-1], recipe, data)):
        return widest, widest
    return 1, 1


def _graphs(tasks: Sequence[Task], recipe: Recipe) -> dict[int, Graph]:
    """Trace each kind of network, by the seeds of its members: once threads are at work it is too late."""
    graphs: dict[int, Graph] = {}
    for kind in recipe.alike([seed for task in tasks for seed in task]):
        with restored_generators(CPU):
            graphs |= dict.fromkeys(kind, traced(recipe.of(kind[0]).build_model()))
    return graphs


def _has_convolutions(recipe: Recipe) -> bool:
    with restored_generators(CPU):
        return any(isinstance(module, nn.Conv2d) for module in recipe.build_model().modules())


def groups(seeds: Sequence[int], width: int, workers: int) -> list[Task]:
    """Cut seeds into groups of at most ``width``, as equal as can be, for all workers to end at about the same time."""
    rounds = math.ceil(math.ceil(len(seeds) / width) / workers)
    count = min(len(seeds), rounds * workers)
    return [tuple(group.tolist()) for group in np.array_split(np.array(seeds, dtype=object), count)]


def why_not_stackable(recipe: Recipe, data: Data) -> str | None:
    """Say why members of a recipe cannot be stacked, or ``None``.

    One step of two members, stacked and each alone, is compared in float64, forwards and backwards.
    """
    streams = [Streams(seed, recipe.vary, recipe.shared_seed) for seed in (0, 1)]
    numbers = [own.number("dropout", 0, 0) for own in streams]
    # Laid out in memory as in training: dropout draws in that order.
    models = [initial_model(recipe, own).double().to(memory_format=torch.channels_last).train() for own in streams]
    raw = data.train.inputs[: min(8, recipe.batch_size)].to(CPU)
    inputs = evaluation_inputs(raw, data, torch.float64)
    try:
        network = Stacked(models)
        together = network(side_by_side([inputs] * 2), dropout_masks(numbers, CPU))
    except NotStackable as error:
        return str(error)
    together.square().sum().backward()
    alike = functools.partial(torch.allclose, rtol=1e-9, atol=1e-9)
    for place, (model, number) in enumerate(zip(models, numbers, strict=True)):
        with restored_generators(CPU):
            seed_device(CPU, number)
            alone = model(inputs)
        alone.square().sum().backward()
        if not alike(together[place], alone):
            return "its logits come out otherwise when members are stacked"
        for name, parameter in model.named_parameters():
            gradient = network.parameters[name].grad
            if parameter.grad is not None and (gradient is None or not alike(gradient[place], parameter.grad)):
                return f"the gradient of {name} comes out otherwise when members are stacked"
    return None


def rounds_alike(recipe: Recipe, data: Data, count: int = 2) -> bool:
    """Say whether so many stacked members get the plain loop's weights to the last bit on this machine."""
    recipe, data = _shortened(recipe, data)
    alone = _states(event for seed in range(count) for event in train_member(seed, recipe, data, CPU))
    return _same(range(count), alone, _stacked(range(count), recipe, data))


def _shortened(recipe: Recipe, data: Data) -> tuple[Recipe, Data]:
    """Return a training of one epoch, of a whole batch and the incomplete one that ends an epoch."""
    count = recipe.batch_size + len(data.train) % recipe.batch_size
    small = Split(data.train.inputs[:count].to(CPU), data.train.labels[:count].to(CPU))
    recipe = dataclasses.replace(recipe, epochs=1, patience=None)
    if recipe.interval != "validation":  # else members have optimizers of their own, which belongs to what is tried
        recipe = dataclasses.replace(recipe, build_scheduler=constant, interval="step")
    return recipe, dataclasses.replace(data, train=small, validation=small)


def _stacked(seeds: Sequence[int], recipe: Recipe, data: Data) -> States:
    return _states(train_group(seeds, recipe, data, CPU))


def _states(events: Iterable[Event]) -> States:
    return {event.seed: event.state for event in events if isinstance(event, TrainedMember)}


def _same(seeds: Sequence[int], some: States, others: States) -> bool:
    """Say whether members have the same weights; they have not where a wish to stop came before they had any."""
    return all(
        seed in some
        and seed in others
        and all(torch.equal(tensor, others[seed][name]) for name, tensor in some[seed].items())
        for seed in seeds
    )


def train_group(
    seeds: Sequence[int],
    recipe: Recipe,
    data: Data,
    device: torch.device,
    keeper: Keeper = UNKEPT,
    least: Mapping[int, int] = ALONE,
    graphs: Mapping[int, Graph] = NO_GRAPHS,
) -> Iterator[Event]:
    """Train the members of some seeds as one; a group that does not fit the memory is cut in halves.

    seeds: of members that differ in nothing else. least: by seed, how many are stacked at least, if more than one.
    graphs: by seed, of networks that are not to be traced here.
    """
    recipe = recipe.of(seeds[0])
    undone = list(seeds)
    width = least.get(seeds[0], 1)
    try:
        for together in equally_far(seeds, keeper):
            graph = graphs.get(next(iter(together)))
            for event in train_together(together, recipe, data, device, keeper, width, graph):
                if isinstance(event, TrainedMember):
                    undone.remove(event.seed)
                yield event
            if requested() is not None:
                return
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error) or max(len(undone), width) == 1:
            raise
    # Not inside `except`, where the traceback would still hold every tensor of the group.
    release_memory(device)
    half = math.ceil(max(len(undone), width) / 2)
    yield Note(
        f"the stacked members of seeds {listed(undone)} do not fit the memory: going on with engine.width={half}"
    )
    least = dict.fromkeys(undone, min(width, half))
    for group in groups(undone, half, 1):
        yield from train_group(group, recipe, data, device, keeper, least, graphs)
        if requested() is not None:
            return


def equally_far(seeds: Sequence[int], keeper: Keeper) -> list[dict[int, Snapshot | None]]:
    """Load where members stand, by seed; those at the same step can be trained together."""
    found: dict[tuple[int, int], dict[int, Snapshot | None]] = {}
    for seed in seeds:
        snapshot = keeper.load(seed)
        position = (len(snapshot.history), snapshot.step) if snapshot is not None else (0, 0)
        found.setdefault(position, {})[seed] = snapshot
    return list(found.values())
