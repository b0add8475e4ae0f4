"""The training of one member, from its seed to its last weights."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvote.data import network_inputs
from seedvote.initialization import initial_model
from seedvote.seeding import Streams, restored_generators, seed_device
from seedvote.types import Data, EpochRecord, Recipe, Split, TrainedMember

EVALUATION_BATCH = 1000


def train_member(seed: int, recipe: Recipe, data: Data, device: torch.device) -> Iterator[EpochRecord | TrainedMember]:
    """Train the member of one seed; yield a record after each epoch and the member last.

    The member is a function of recipe, data and seed alone (on the same kind of device, with the same number of
    threads): every random draw comes from its own streams. ``data`` lies on ``device`` already.

    A member whose loss or weights are no longer finite stops there and keeps its last finite weights.
    """
    started = time.perf_counter()
    streams = Streams(seed, recipe.vary, recipe.shared_seed)
    model = initial_model(recipe, streams).to(device).to(memory_format=torch.channels_last)
    optimizer = recipe.build_optimizer(parameter_groups(model.parameters(), recipe.decay_all))
    total_steps = recipe.epochs * len(batches(torch.arange(len(data.train)), recipe.batch_size))
    scheduler = recipe.build_scheduler(optimizer, total_steps)

    course = Course(seed, recipe.patience, copied_state(model))
    for epoch in range(1, recipe.epochs + 1):
        epoch_started = time.perf_counter()
        with restored_generators(device):
            train_loss = train_epoch(epoch, model, optimizer, scheduler, recipe, data, streams)
        learning_rate = optimizer.param_groups[0]["lr"]
        validation_loss, accuracy = evaluate(model, data.validation, data)
        seconds = time.perf_counter() - epoch_started
        record = EpochRecord(epoch, train_loss, validation_loss, accuracy, learning_rate, seconds)
        if course.goes_on(record, copied_state(model)):
            yield record
        if course.over:
            break
    yield course.member(time.perf_counter() - started)


@dataclass
class Course:
    """How the training of one member is going: its history, and which weights to keep.

    kept: the weights of the best epoch if there is early stopping, else of the last epoch; always finite.
    """

    seed: int
    patience: int | None
    kept: dict[str, Tensor]
    history: list[EpochRecord] = field(default_factory=list)
    kept_epoch: int = 0
    lowest_loss: float = math.inf
    diverged: str | None = None

    def goes_on(self, record: EpochRecord, state: dict[str, Tensor]) -> bool:
        """Note an epoch and the weights after it; return False if the member diverged in it."""
        self.diverged = non_finite(record, state)
        if self.diverged is None:
            self.history.append(record)
            if self.patience is None or record.validation_loss < self.lowest_loss:
                self.kept, self.kept_epoch, self.lowest_loss = state, record.epoch, record.validation_loss
        return self.diverged is None

    @property
    def over(self) -> bool:
        """Whether training stops before its last epoch: diverged, or no better for too long."""
        stale = len(self.history) - self.kept_epoch
        return self.diverged is not None or (self.patience is not None and stale >= self.patience)

    def member(self, seconds: float) -> TrainedMember:
        """Return what became of the member."""
        return TrainedMember(self.seed, self.kept, tuple(self.history), self.kept_epoch, seconds, self.diverged)


def train_epoch(
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    recipe: Recipe,
    data: Data,
    streams: Streams,
) -> float:
    """Go once through the training split in the member's own order; return the mean loss in nats."""
    model.train()
    device, dtype = data.train.inputs.device, next(model.parameters()).dtype
    order = torch.from_numpy(streams.generator("order", epoch).permutation(len(data.train)))
    loss_sum, seen = torch.zeros((), device=device), 0
    for step, chosen in enumerate(batches(order.to(device), recipe.batch_size)):
        inputs = network_inputs(data.train.inputs[chosen], data.normalization, dtype)
        inputs = recipe.augment(inputs, streams.generator("augment", epoch, step))
        seed_device(device, streams.number("dropout", epoch, step))
        loss = F.cross_entropy(model(inputs), data.train.labels[chosen], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        scheduler.step()
        loss_sum += loss.detach() * len(chosen)
        seen += len(chosen)
    return loss_sum.item() / seen


@torch.inference_mode()
def evaluate(model: nn.Module, split: Split, data: Data) -> tuple[float, float]:
    """Return mean negative log-likelihood (nats) and accuracy (fraction) of a split, in evaluation mode."""
    model.eval()
    dtype = next(model.parameters()).dtype
    loss_sum, correct = 0.0, 0
    for start in range(0, len(split), EVALUATION_BATCH):
        labels = split.labels[start : start + EVALUATION_BATCH]
        logits = model(network_inputs(split.inputs[start : start + EVALUATION_BATCH], data.normalization, dtype))
        loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
    return loss_sum / len(split), correct / len(split)


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Cut an order of samples into batches; the last may be smaller.

    A single sample left over is not trained on in that epoch: BatchNorm cannot take a batch of one.
    """
    cut = list(order.split(batch_size))
    return cut[:-1] if len(cut) > 1 and len(cut[-1]) == 1 < batch_size else cut


def parameter_groups(
    parameters: Iterable[nn.Parameter], decay_all: bool, stacked: bool = False
) -> list[dict[str, Any]]:
    """Group parameters for the optimizer; one-dimensional ones (biases, norms) get no weight decay.

    decay_all: one group with everything, so that weight decay holds all parameters. stacked: the parameters have a
    first axis of members, which does not count.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if decay_all:
        return [{"params": trained}]
    matrices = [parameter for parameter in trained if parameter.ndim - stacked > 1]
    vectors = [parameter for parameter in trained if parameter.ndim - stacked <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def copied_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy weights and buffers to the CPU, so that further training cannot change them."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def non_finite(record: EpochRecord, state: Mapping[str, Tensor]) -> str | None:
    """Return what is no longer finite after an epoch, in words, or ``None``."""
    for name, loss in (("training", record.train_loss), ("validation", record.validation_loss)):
        if not math.isfinite(loss):
            return f"the {name} loss became {loss} in epoch {record.epoch}"
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            return f"{name} became non-finite in epoch {record.epoch}"
    return None


def on_device(data: Data, device: torch.device) -> Data:
    """Return the data with its training and validation splits on a device, for all members at once."""

    def moved(split: Split) -> Split:
        return Split(split.inputs.to(device), split.labels.to(device))

    return dataclasses.replace(data, train=moved(data.train), validation=moved(data.validation))
