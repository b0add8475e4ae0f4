"""The training of several members as one; read ``seedvote.training`` beside it, whose loop this is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvote.augmentation import is_none
from seedvote.course import Course, batches, copied_state, epoch_order, samples_an_epoch, steps_an_epoch
from seedvote.data import evaluation_inputs, network_inputs, preprocessed
from seedvote.engines.masks import dropout_masks
from seedvote.engines.stacked import Graph, Stacked
from seedvote.engines.stacked_optimizer import StackedOptimizer, standing_optimizer
from seedvote.events import Keeper, Observation, Paused, Progress
from seedvote.initialization import initial_model
from seedvote.interruption import requested
from seedvote.observation import histograms
from seedvote.regularization import limit_norms, shape_gradients
from seedvote.seeding import Streams
from seedvote.training import EVALUATION_BATCH
from seedvote.types import Data, Recipe, Snapshot, Split, TrainedMember


@dataclass
class Lap:
    """How far a group came in an epoch. epoch: counted from 1; loss_sums: ``[G]``, nats, over the steps taken."""

    epoch: int
    step: int
    loss_sums: Tensor


@dataclass
class Group:
    """Members that are trained together. courses: by place in the stack, of those that are not done."""

    network: Stacked
    streams: list[Streams]
    courses: dict[int, Course]
    lap: Lap
    optimizer: StackedOptimizer

    def snapshots(self) -> dict[int, Snapshot]:
        """Return where each member stands, by seed."""
        states = self.optimizer.states()
        for place, course in self.courses.items():
            course.step, course.loss_sum = self.lap.step, self.lap.loss_sums[place]
        return {
            course.seed: course.snapshot(self.network.state(place), *states[place])
            for place, course in self.courses.items()
        }


def train_together(
    snapshots: Mapping[int, Snapshot | None],
    recipe: Recipe,
    data: Data,
    device: torch.device,
    keeper: Keeper,
    width: int,
    graph: Graph | None = None,
) -> Iterator[Progress | TrainedMember | Paused]:
    """Train members that are equally far, by seed; compare ``seedvote.training.train_member``.

    width: how many members are stacked at least: the last seed has twins then. graph: of their network; ``None`` to
    trace it. Nothing is drawn from torch's global generators, so threads may train groups.
    """
    group = standing_group(snapshots, recipe, data, device, width, graph)
    yield from ended(group, recipe)
    while group.courses:
        for _ in train_epoch(group, recipe, data):
            if requested() is not None:
                break
            if keeper.due(epoch_over=False):
                keeper.save(group.snapshots())
        if requested() is not None:
            keeper.save(group.snapshots())
            yield from [Paused(course.seed, len(course.history), group.lap.step) for course in group.courses.values()]
            return
        train_losses = [total / samples_an_epoch(recipe, data) for total in group.lap.loss_sums.tolist()]
        validation_losses, accuracies = evaluate(group.network, data.validation, data)
        observations = observed(group, data) if keeper.observes else {}
        for place, course in group.courses.items():
            learning_rate = group.optimizer.learning_rate(place)
            record = course.record(train_losses[place], validation_losses[place], accuracies[place], learning_rate)
            if course.goes_on(record, group.network.state(place)):
                yield Progress(course.seed, record, observations.get(place))
        group.optimizer.after_epoch(validation_losses)
        group.lap = Lap(group.lap.epoch + 1, 0, torch.zeros_like(group.lap.loss_sums))
        yield from ended(group, recipe)
        if group.courses and keeper.due(epoch_over=True):
            keeper.save(group.snapshots())


def standing_group(
    snapshots: Mapping[int, Snapshot | None],
    recipe: Recipe,
    data: Data,
    device: torch.device,
    width: int,
    graph: Graph | None = None,
) -> Group:
    """Stack members where they stand: at their beginning, or at the step at which all of them were saved."""
    models = {seed: initial_model(recipe, Streams(seed, recipe.vary, recipe.shared_seed)) for seed in snapshots}
    courses: dict[int, Course] = {}
    for place, (seed, model) in enumerate(models.items()):
        courses[place] = Course(seed, recipe.patience, copied_state(model), share=1 / len(models))
        snapshot = snapshots[seed]
        if snapshot is not None:
            model.load_state_dict(snapshot.state)
            courses[place].resume(snapshot)
    seeds = [*models, *[list(models)[-1]] * (width - len(models))]
    network = Stacked([models[seed].to(device) for seed in seeds], graph)
    loss_sums = torch.zeros(network.count, device=device)
    loss_sums[: len(courses)] = torch.stack([course.loss_sum for course in courses.values()])
    lap = Lap(courses[0].epoch, courses[0].step, loss_sums)
    known = [snapshots[seed] for seed in seeds]
    optimizer = standing_optimizer(recipe, network, known, steps_an_epoch(recipe, data))
    streams = [Streams(seed, recipe.vary, recipe.shared_seed) for seed in seeds]
    return Group(network, streams, courses, lap, optimizer)


def ended(group: Group, recipe: Recipe) -> Iterator[TrainedMember]:
    """Take the members whose training is over out of the group; their places stay and are computed for nothing."""
    for place, course in list(group.courses.items()):
        if course.over(recipe.epochs):
            yield dataclasses.replace(group.courses.pop(place).member(), engine="fused")


def train_epoch(group: Group, recipe: Recipe, data: Data) -> Iterator[None]:
    """Take the epoch's steps that are still to be taken, each member in its own order; hold after each one."""
    lap, streams, device = group.lap, group.streams, data.train.inputs.device
    orders = [epoch_order(own, lap.epoch, recipe, data) for own in streams]
    cuts = list(zip(*(batches(order.to(device), recipe.batch_size) for order in orders), strict=True))
    for chosen in cuts[lap.step :]:
        # As `training_inputs` has it; gathering and normalising treat every sample by itself, so all members' at once.
        normal = network_inputs(data.train.inputs[torch.cat(chosen)], data.normalization, group.network.dtype)
        inputs = normal.split(len(chosen[0]))
        if not is_none(recipe.augment):
            generators = [stream.generator("augment", lap.epoch, lap.step) for stream in streams]
            inputs = [recipe.augment(own, draws) for own, draws in zip(inputs, generators, strict=True)]
        inputs = [preprocessed(own, data.preprocessing) for own in inputs]
        masks = dropout_masks([stream.number("dropout", lap.epoch, lap.step) for stream in streams], device)
        logits = group.network(side_by_side(inputs), masks)
        labels = data.train.labels[torch.stack(chosen)]
        losses = member_losses(logits, labels, recipe.label_smoothing)
        group.optimizer.zero_grad()
        # The members' losses share no parameter, so the gradient of their sum is each one's own gradient.
        losses.sum().backward()
        shape_gradients(group.network.parameters.values(), recipe, stacked=True)
        group.optimizer.step()
        limit_norms(group.network.parameters.values(), recipe.max_norm, stacked=True)
        lap.loss_sums += losses.detach() * labels.shape[1]
        lap.step += 1
        yield


@torch.inference_mode()
def evaluate(network: Stacked, split: Split, data: Data) -> tuple[list[float], list[float]]:
    """Return each member's mean negative log-likelihood (nats) and accuracy (fraction) on a split."""
    loss_sums = torch.zeros(network.count, device=split.labels.device, dtype=torch.float64)
    correct = torch.zeros(network.count, device=split.labels.device, dtype=torch.int64)
    for start in range(0, len(split), EVALUATION_BATCH):
        labels = split.labels[start : start + EVALUATION_BATCH].expand(network.count, -1)
        inputs = evaluation_inputs(split.inputs[start : start + EVALUATION_BATCH], data, network.dtype)
        logits = network(side_by_side([inputs] * network.count))
        loss_sums += member_losses(logits, labels, label_smoothing=0.0) * labels.shape[1]
        correct += (logits.argmax(2) == labels).sum(1)
    return (loss_sums / len(split)).tolist(), [count / len(split) for count in correct.tolist()]


@torch.inference_mode()
def observed(group: Group, data: Data) -> dict[int, Observation]:
    """Look at the members of a group that are not done, by place; compare ``seedvote.training.observed``."""
    network, parts = group.network, []
    for batch in data.validation.inputs.split(EVALUATION_BATCH):
        inputs = evaluation_inputs(batch, data, network.dtype)
        parts.append(network(side_by_side([inputs] * network.count)).float().cpu())
    logits = torch.cat(parts, dim=1).numpy()
    observations = {}
    for place in group.courses:
        weights = {name: parameter[place] for name, parameter in network.parameters.items()}
        observations[place] = Observation(histograms(weights), histograms(network.gradients(place)), logits[place])
    return observations


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
        # Not `contiguous`, which leaves a single channel as it is; layers then take it for channels-first.
        return torch.cat(list(inputs), dim=1).to(memory_format=torch.channels_last)
    return torch.stack(list(inputs))
