"""The training of one member, from its seed to its last weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn import functional as F

from seedvote.course import Course, batches, copied_state, epoch_order, samples_an_epoch, steps_an_epoch
from seedvote.data import evaluation_inputs, training_inputs
from seedvote.events import Keeper, Observation, Paused, Progress
from seedvote.initialization import initial_model
from seedvote.interruption import requested
from seedvote.observation import histograms
from seedvote.optimization import (
    Schedule,
    group_numbers,
    optimizer_state,
    parameter_groups,
    restore_optimizer,
    schedule_after,
)
from seedvote.regularization import limit_norms, shape_gradients
from seedvote.seeding import Streams, restored_generators, seed_device
from seedvote.types import Data, Recipe, Snapshot, Split, TrainedMember

EVALUATION_BATCH = 256  # samples; more of them take more memory, and more time where activations leave the cache


class Unkept:
    """A ``Keeper`` that keeps nothing: members exist only as what engines yield."""

    observes = False

    def claim(self, seeds: Sequence[int]) -> AbstractContextManager[list[int]]:
        """Give all members."""
        return nullcontext(list(seeds))

    def load(self, seed: int) -> Snapshot | None:  # noqa: ARG002
        """Know nothing."""
        return None

    def due(self, epoch_over: bool) -> bool:  # noqa: ARG002
        """Never save."""
        return False

    def save(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Forget where members stand."""

    def finish(self, member: TrainedMember) -> None:
        """Leave the member to whoever sees it yielded."""

    def notes(self) -> list[str]:
        """Have nothing to say."""
        return []


UNKEPT = Unkept()


def train_member(
    seed: int, recipe: Recipe, data: Data, device: torch.device, keeper: Keeper = UNKEPT
) -> Iterator[Progress | TrainedMember | Paused]:
    """Train the member of one seed; yield its progress after each epoch and the member last.

    The member is a function of recipe, data and seed alone (on the same kind of device, with the same number of
    threads): every random draw comes from its own streams. ``data`` lies on ``device`` already. Where the keeper knows
    how far the member came, it goes on from there, to the same end.

    A member whose loss or weights are no longer finite stops there and keeps its last finite weights. A process that
    is asked to stop (see ``seedvote.interruption``) saves the member after the step at hand and yields ``Paused``.
    """
    recipe = recipe.of(seed)
    streams = Streams(seed, recipe.vary, recipe.shared_seed)
    model = initial_model(recipe, streams).to(device).to(memory_format=torch.channels_last)
    course = Course(seed, recipe.patience, copied_state(model))
    snapshot = keeper.load(seed)
    if snapshot is not None:
        model.load_state_dict(snapshot.state)
        course.resume(snapshot)
    optimizer = recipe.build_optimizer(parameter_groups(model.parameters(), recipe.decay_all))
    schedule = schedule_after(course.history, course.step, optimizer, recipe, steps_an_epoch(recipe, data))
    parameters = dict(model.named_parameters())
    if snapshot is not None:
        restore_optimizer(optimizer, parameters, snapshot.optimizer, snapshot.groups)

    def save() -> None:
        state = optimizer_state(optimizer, parameters)
        keeper.save({seed: course.snapshot(copied_state(model), state, group_numbers(optimizer))})

    while not course.over(recipe.epochs):
        with restored_generators(device):
            for _ in train_epoch(course, model, optimizer, schedule, recipe, data, streams):
                if requested() is not None:
                    break
                if keeper.due(epoch_over=False):
                    save()
        if requested() is not None:
            save()
            yield Paused(seed, len(course.history), course.step)
            return
        learning_rate = optimizer.param_groups[0]["lr"]
        train_loss = course.loss_sum.item() / samples_an_epoch(recipe, data)
        validation_loss, accuracy = evaluate(model, data.validation, data)
        record = course.record(train_loss, validation_loss, accuracy, learning_rate)
        if course.goes_on(record, copied_state(model)):
            schedule.after_epoch(validation_loss)
            yield Progress(seed, record, observed(model, data) if keeper.observes else None)
        if not course.over(recipe.epochs) and keeper.due(epoch_over=True):
            save()
    yield course.member()


def train_epoch(
    course: Course,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    recipe: Recipe,
    data: Data,
    streams: Streams,
) -> Iterator[None]:
    """Take the epoch's steps that are still to be taken, in the member's own order; hold after each one."""
    model.train()
    epoch, device, dtype = course.epoch, data.train.inputs.device, next(model.parameters()).dtype
    order = epoch_order(streams, epoch, recipe, data)
    course.loss_sum = course.loss_sum.to(device)
    for chosen in batches(order.to(device), recipe.batch_size)[course.step :]:
        generator = streams.generator("augment", epoch, course.step)
        inputs = training_inputs(data.train.inputs[chosen], data, recipe.augment, generator, dtype)
        seed_device(device, streams.number("dropout", epoch, course.step))
        loss = F.cross_entropy(model(inputs), data.train.labels[chosen], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        shape_gradients(model.parameters(), recipe)
        optimizer.step()
        limit_norms(model.parameters(), recipe.max_norm)
        schedule.after_step()
        course.loss_sum += loss.detach() * len(chosen)
        course.step += 1
        yield


@torch.inference_mode()
def evaluate(model: nn.Module, split: Split, data: Data) -> tuple[float, float]:
    """Return mean negative log-likelihood (nats) and accuracy (fraction) of a split, in evaluation mode."""
    model.eval()
    dtype = next(model.parameters()).dtype
    loss_sum, correct = 0.0, 0
    for start in range(0, len(split), EVALUATION_BATCH):
        labels = split.labels[start : start + EVALUATION_BATCH]
        logits = model(evaluation_inputs(split.inputs[start : start + EVALUATION_BATCH], data, dtype))
        loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
    return loss_sum / len(split), correct / len(split)


@torch.inference_mode()
def observed(model: nn.Module, data: Data) -> Observation:
    """Look at a member after an epoch, for a keeper that observes; costs a second pass over the validation split."""
    model.eval()
    dtype = next(model.parameters()).dtype
    logits = [
        model(evaluation_inputs(batch, data, dtype)).float().cpu()
        for batch in data.validation.inputs.split(EVALUATION_BATCH)
    ]
    parameters = dict(model.named_parameters())
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    return Observation(histograms(parameters), histograms(gradients), torch.cat(logits).numpy())


def on_device(data: Data, device: torch.device) -> Data:
    """Return the data with its training and validation splits on a device, for all members at once."""

    def moved(split: Split) -> Split:
        return Split(split.inputs.to(device), split.labels.to(device))

    return dataclasses.replace(data, train=moved(data.train), validation=moved(data.validation))
