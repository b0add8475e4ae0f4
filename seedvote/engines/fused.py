"""Members stacked and trained as one: the same mathematics with far fewer, larger operations.

Each member keeps its own data order, augmentation, dropout, clipping, early stopping and divergence. A member's
arithmetic does not mix with that of its neighbours, so what becomes of it does not depend on who they are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvote.data import network_inputs
from seedvote.engines.process import Process
from seedvote.engines.stacked import NotStackable, Stacked
from seedvote.engines.workers import Task, train_in_processes, worker_count
from seedvote.initialization import initial_model
from seedvote.seeding import Streams, restored_generators, seed_device
from seedvote.training import EVALUATION_BATCH, Course, batches, on_device, parameter_groups, train_member
from seedvote.types import Data, EpochRecord, Failure, Note, Progress, Recipe, Split, TrainedMember

# The activations of many convolutional members no longer fit the cache; linear layers gain by more members for longer.
LINEAR_WIDTH = 16
CONVOLUTION_WIDTH = 4
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Fused:
    """Trains groups of members as one network each, the groups spread over processes.

    width: the most members in a group; ``None`` for what was measured to be good for the kind of network.
    workers: how many processes; ``None`` for one for each GPU or core, 1 for no process but this one.
    """

    width: int | None = None
    workers: int | None = None
    name: str = "fused"

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        for key, value in (("width", self.width), ("workers", self.workers)):
            if value is not None and value < 1:
                raise ValueError(f"engine.{key} must be at least 1, or null, got {value}")

    def train(
        self, seeds: Sequence[int], recipe: Recipe, data: Data, device: torch.device
    ) -> Iterator[Progress | TrainedMember | Failure | Note]:
        """Train one member for each seed.

        A network that cannot be stacked is left to ``Process``, with a note that says why.
        """
        if not seeds:
            return
        reason = why_not_stackable(recipe, data)
        if reason is not None:
            yield Note(f"engine=fused cannot train this network: {reason}; engine=process is taken instead")
            yield from Process(self.workers).train(seeds, recipe, data, device)
            return
        width = self.width or default_width(recipe)
        workers = self.workers or worker_count(device)
        tasks, trainer = groups(seeds, width, workers), functools.partial(train_group, width=width)
        if workers == 1 or len(tasks) == 1:
            data = on_device(data, device)
            for task in tasks:
                yield from trainer(task, recipe, data, device)
        else:
            yield from train_in_processes(tasks, trainer, workers, recipe, data, device)


def default_width(recipe: Recipe) -> int:
    """Return how many members of a recipe are best stacked."""
    with torch.random.fork_rng(devices=[]):
        modules = recipe.build_model().modules()
    return CONVOLUTION_WIDTH if any(isinstance(module, nn.Conv2d) for module in modules) else LINEAR_WIDTH


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
    models = [initial_model(recipe, own).double().train() for own in streams]
    raw = data.train.inputs[: min(8, recipe.batch_size)].to(CPU)
    inputs = network_inputs(raw, data.normalization, torch.float64)
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


def rounds_alike(recipe: Recipe, data: Data) -> bool:
    """Say whether stacked members get the plain loop's weights to the last bit on this machine.

    Found out by training two members for an epoch of a whole batch and the incomplete one that ends an epoch.
    """
    count = recipe.batch_size + len(data.train) % recipe.batch_size
    small = Split(data.train.inputs[:count].to(CPU), data.train.labels[:count].to(CPU))
    data = dataclasses.replace(data, train=small, validation=small)
    recipe = dataclasses.replace(recipe, epochs=1, patience=None)
    for event in train_group([0, 1], recipe, data, CPU):
        if isinstance(event, TrainedMember):
            *_, alone = train_member(event.seed, recipe, data, CPU)
            assert isinstance(alone, TrainedMember)
            if not all(torch.equal(event.state[name], tensor) for name, tensor in alone.state.items()):
                return False
    return True


def train_group(
    seeds: Sequence[int], recipe: Recipe, data: Data, device: torch.device, width: int = 1
) -> Iterator[Progress | TrainedMember]:
    """Train the members of some seeds as one; compare ``seedvote.training.train_member``.

    width: how many members are stacked at least, where there are convolutions: the last seed has twins then.
    """
    started = time.perf_counter()
    models = {seed: initial_model(recipe, Streams(seed, recipe.vary, recipe.shared_seed)) for seed in seeds}
    stacked_seeds = padded(seeds, models[seeds[0]], width)
    streams = [Streams(seed, recipe.vary, recipe.shared_seed) for seed in stacked_seeds]
    network = Stacked([models[seed].to(device) for seed in stacked_seeds])
    optimizer = build_optimizer(recipe, network)
    total_steps = recipe.epochs * len(batches(torch.arange(len(data.train)), recipe.batch_size))
    scheduler = recipe.build_scheduler(optimizer, total_steps)

    courses = {place: Course(seed, recipe.patience, network.state(place)) for place, seed in enumerate(seeds)}
    for epoch in range(1, recipe.epochs + 1):
        epoch_started = time.perf_counter()
        with restored_generators(device):
            train_losses = train_epoch(epoch, network, optimizer, scheduler, recipe, data, streams)
        learning_rate = optimizer.param_groups[0]["lr"]
        validation_losses, accuracies = evaluate(network, data.validation, data)
        seconds = (time.perf_counter() - epoch_started) / len(seeds)
        for place, course in list(courses.items()):
            losses = train_losses[place], validation_losses[place]
            record = EpochRecord(epoch, *losses, accuracies[place], learning_rate, seconds)
            if course.goes_on(record, network.state(place)):
                yield Progress(course.seed, record)
            if course.over or epoch == recipe.epochs:
                member = courses.pop(place).member((time.perf_counter() - started) / len(seeds))
                yield dataclasses.replace(member, engine="fused")
        if not courses:
            return


def padded(seeds: Sequence[int], model: nn.Module, width: int) -> list[int]:
    """Repeat the last seed until a group of convolutional members is ``width`` wide.

    Grouped convolutions and per-channel layers may round by how many channels there are in all; in groups that are
    always equally wide a member comes out the same, however many there are.
    """
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return [*seeds, *[seeds[-1]] * (width - len(seeds))]
    return list(seeds)


def train_epoch(
    epoch: int,
    network: Stacked,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    recipe: Recipe,
    data: Data,
    streams: Sequence[Streams],
) -> list[float]:
    """Go once through the training split, each member in its own order; return the members' mean losses in nats."""
    device = data.train.inputs.device
    orders = [torch.from_numpy(own.generator("order", epoch).permutation(len(data.train))) for own in streams]
    loss_sums, seen = torch.zeros(network.count, device=device), 0
    cuts = zip(*(batches(order.to(device), recipe.batch_size) for order in orders), strict=True)
    for step, chosen in enumerate(cuts):
        inputs = [
            recipe.augment(
                network_inputs(data.train.inputs[own], data.normalization, network.dtype),
                stream.generator("augment", epoch, step),
            )
            for own, stream in zip(chosen, streams, strict=True)
        ]
        masks = dropout_masks([stream.number("dropout", epoch, step) for stream in streams], device)
        logits = network(side_by_side(inputs), masks)
        labels = data.train.labels[torch.stack(chosen)]
        losses = member_losses(logits, labels, recipe.label_smoothing)
        optimizer.zero_grad()
        # The members' losses share no parameter, so the gradient of their sum is each one's own gradient.
        losses.sum().backward()
        if recipe.clip_norm is not None:
            clip_members(network.parameters.values(), recipe.clip_norm)
        network.hand_out_gradients()
        optimizer.step()
        scheduler.step()
        loss_sums += losses.detach() * labels.shape[1]
        seen += labels.shape[1]
    return [total / seen for total in loss_sums.tolist()]


@torch.inference_mode()
def evaluate(network: Stacked, split: Split, data: Data) -> tuple[list[float], list[float]]:
    """Return each member's mean negative log-likelihood (nats) and accuracy (fraction) on a split."""
    loss_sums = torch.zeros(network.count, device=split.labels.device, dtype=torch.float64)
    correct = torch.zeros(network.count, device=split.labels.device, dtype=torch.int64)
    for start in range(0, len(split), EVALUATION_BATCH):
        labels = split.labels[start : start + EVALUATION_BATCH].expand(network.count, -1)
        inputs = network_inputs(split.inputs[start : start + EVALUATION_BATCH], data.normalization, network.dtype)
        logits = network(side_by_side([inputs] * network.count))
        loss_sums += member_losses(logits, labels, label_smoothing=0.0) * labels.shape[1]
        correct += (logits.argmax(2) == labels).sum(1)
    return (loss_sums / len(split)).tolist(), [count / len(split) for count in correct.tolist()]


def member_losses(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy ``[G]`` of each member, from logits ``[G, B, C]`` and labels ``[G, B]``."""
    # Written out in the order of F.cross_entropy's own arithmetic, so that the gradients have the same bits.
    log_probabilities = F.log_softmax(logits, dim=2)
    likelihood = -log_probabilities.gather(2, labels[..., None]).squeeze(2).mean(1)
    if not label_smoothing:
        return likelihood
    uniform = -log_probabilities.sum(2).mean(1)
    return likelihood * (1 - label_smoothing) + uniform * (label_smoothing / logits.shape[2])


def side_by_side(inputs: Sequence[Tensor]) -> Tensor:
    """Join the members' batches: images ``[B, G * channels, height, width]``, vectors ``[G, B, features]``."""
    if inputs[0].ndim == 4:
        return torch.cat(list(inputs), dim=1).contiguous(memory_format=torch.channels_last)
    return torch.stack(list(inputs))


def dropout_masks(numbers: Sequence[int], device: torch.device) -> Callable[[Tensor, float], Tensor]:
    """Return what draws dropout's factors (0 or 1 / (1 - p)) for each member from a generator of its own.

    numbers: one seed for each member. The draws are those that ``torch.nn.Dropout`` makes for a member alone whose
    global generator is seeded with its number.
    """
    generators = [torch.Generator(device).manual_seed(number) for number in numbers]

    def draw(like: Tensor, probability: float) -> Tensor:
        kept = 1 - probability
        if like.ndim == 4:
            alone = torch.empty_like(like[:, : like.shape[1] // len(generators)])
            alone = alone.contiguous(memory_format=torch.channels_last)
        else:
            alone = torch.empty_like(like[0])
        masks = [torch.empty_like(alone).bernoulli_(kept, generator=own) for own in generators]
        return side_by_side(masks).div_(kept)

    return draw


def clip_members(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale each member's gradients down to a norm of at most ``largest``, as ``clip_grad_norm_`` does for one."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    factors = (largest / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *(1,) * (gradient.ndim - 1)))


def build_optimizer(recipe: Recipe, network: Stacked) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over the stacked parameters.

    One with ``fused=True`` treats the numbers at the end of a tensor by themselves and rounds them otherwise, so it
    gets each member's own part of every tensor, which it takes in one pass all the same.
    """
    build: Callable[..., torch.optim.Optimizer] = recipe.build_optimizer
    if isinstance(build, functools.partial) and build.keywords.get("fused"):
        return recipe.build_optimizer(parameter_groups(network.parts(), recipe.decay_all))
    return build(parameter_groups(network.parameters.values(), recipe.decay_all, stacked=True))
