"""How much memory members in training take, worked out without training them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from seedvote.data.archive import physical_memory
from seedvote.engines.keeping import Task
from seedvote.seeding import restored_generators
from seedvote.training import EVALUATION_BATCH
from seedvote.types import Data, Recipe

CPU = torch.device("cpu")
META = torch.device("meta")
ALONE: Mapping[int, int] = MappingProxyType({})  # by seed, where no member is computed for nothing
# Memory of a process before it trains, mostly torch's, without what processes share.
A_PROCESS = 300 * 2**20
# Memory of a step's tensors with the gaps that malloc leaves between them: 1.0 to 2.7 times their sizes, as measured.
SLACK = 2.5


@dataclass(frozen=True)
class Footprint:
    """What one member takes, in bytes.

    weights: its weights and buffers, gradients, the optimizer's state, and copies of the last weights and of the kept
    ones. step: what a step holds between its forward and its backward pass. largest: of the tensors in ``step``.
    evaluated: how much larger than a batch is what is evaluated at once.
    """

    weights: int
    step: int
    largest: int
    evaluated: float

    @property
    def total(self) -> int:
        """What a member takes when it takes most: where a backward pass begins, or amid an evaluation."""
        return self.weights + int(SLACK * max(self.step + 2 * self.largest, 2 * self.evaluated * self.largest))


def footprint(recipe: Recipe, data: Data) -> Footprint | None:
    """Work out what a member of a recipe takes, by a step with tensors that have shapes and no memory.

    ``None`` for a network or an optimizer that wants to see numbers.
    """
    with restored_generators(CPU):
        model = recipe.build_model()
    numbers = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    held: dict[int, torch.UntypedStorage] = {}

    def hold(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[id(storage)] = storage
        return tensor

    labels = torch.empty(recipe.batch_size, dtype=torch.int64, device=META)
    try:
        dtype = next(model.parameters()).dtype
        inputs = torch.empty(recipe.batch_size, *data.network_shape, dtype=dtype, device=META)
        model = model.to(META).train()
        own = {id(tensor.untyped_storage()) for tensor in model.state_dict(keep_vars=True).values()}
        with saved_tensors_hooks(hold, lambda tensor: tensor):
            loss = F.cross_entropy(model(inputs), labels)
        state = _numbers_of_state(recipe)
    except Exception:  # the network's and the optimizer's own code, which may raise anything
        return None
    del loss
    sizes = [storage.nbytes() for key, storage in held.items() if key not in own]
    evaluated = min(EVALUATION_BATCH, len(data.validation)) / recipe.batch_size
    return Footprint(int(3 * numbers + (1 + state) * trained), sum(sizes), max(sizes, default=0), evaluated)


def _numbers_of_state(recipe: Recipe) -> float:
    """Return how many numbers the recipe's optimizer keeps for each number of a parameter."""
    parameter = nn.Parameter(torch.zeros(8, 8))
    optimizer = recipe.build_optimizer([{"params": [parameter]}])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
    return sum(value.numel() for value in state if value.shape == parameter.shape) / parameter.numel()


def memory_note(
    tasks: Sequence[Task],
    at_a_time: int,
    recipe: Recipe,
    data: Data,
    processes: int = 0,
    least: Mapping[int, int] = ALONE,
) -> str:
    """Say what training takes, if the network lets that be worked out, and what to do where there is not as much.

    tasks: the seeds that are trained together, so many tasks ``at_a_time``. processes: started for them. least: by
    seed, how many members are computed at least where it trains.
    """
    footprints: dict[int, Footprint | None] = {}
    for kind in recipe.alike([task[0] for task in tasks]):
        footprints |= dict.fromkeys(kind, footprint(recipe.of(kind[0]), data))
    needs = []
    for task in tasks:
        own = footprints[task[0]]
        if own is None:
            return "memory     not known: the network or the optimizer cannot be asked without being run"
        needs.append(own.total * max(len(task), least.get(task[0], 1)))
    needed = (1 + processes) * A_PROCESS + data_bytes(data) + sum(sorted(needs)[-at_a_time:])
    count, width = min(at_a_time, len(tasks)), max(map(len, tasks))
    stacks = f"{count} stack{'s' if count > 1 else ''} of {'up to ' if len(tasks) > 1 else ''}{width} members"
    members = f"{count} members" if count > 1 else "one member"
    text = f"memory     about {_size(needed)} for {stacks if width > 1 else members} at a time"
    there = physical_memory()
    if needed > there:
        text += f", more than the {_size(there)} that there are: lower batch_size, engine.workers or engine.width"
    return text


def data_bytes(data: Data) -> int:
    """Return how many bytes the samples and labels of a data set take in memory."""
    if data.scratch is not None:
        return 0
    return sum(split.inputs.nbytes + split.labels.nbytes for split in (data.train, data.validation, data.test))


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
