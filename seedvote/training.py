"""The training of one member, from its seed to its last weights."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
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
    optimizer = recipe.build_optimizer(parameter_groups(model, recipe.decay_all))
    total_steps = recipe.epochs * len(batches(torch.arange(len(data.train)), recipe.batch_size))
    scheduler = recipe.build_scheduler(optimizer, total_steps)

    history: list[EpochRecord] = []
    kept, kept_epoch, lowest_loss = copied_state(model), 0, math.inf
    diverged = None
    for epoch in range(1, recipe.epochs + 1):
        epoch_started = time.perf_counter()
        with restored_generators(device):
            train_loss = train_epoch(epoch, model, optimizer, scheduler, recipe, data, streams)
        learning_rate = optimizer.param_groups[0]["lr"]
        validation_loss, accuracy = evaluate(model, data.validation, data)
        diverged = non_finite(epoch, train_loss, validation_loss, model)
        if diverged:
            break
        seconds = time.perf_counter() - epoch_started
        record = EpochRecord(epoch, train_loss, validation_loss, accuracy, learning_rate, seconds)
        history.append(record)
        if recipe.patience is None or validation_loss < lowest_loss:
            kept, kept_epoch, lowest_loss = copied_state(model), epoch, validation_loss
        yield record
        if recipe.patience is not None and epoch - kept_epoch >= recipe.patience:
            break
    yield TrainedMember(seed, kept, tuple(history), kept_epoch, time.perf_counter() - started, diverged)


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
    device = data.train.inputs.device
    order = torch.from_numpy(streams.generator("order", epoch).permutation(len(data.train)))
    loss_sum, seen = torch.zeros((), device=device), 0
    for step, chosen in enumerate(batches(order.to(device), recipe.batch_size)):
        inputs = network_inputs(data.train.inputs[chosen], data.normalization)
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
    loss_sum, correct = 0.0, 0
    for start in range(0, len(split), EVALUATION_BATCH):
        labels = split.labels[start : start + EVALUATION_BATCH]
        logits = model(network_inputs(split.inputs[start : start + EVALUATION_BATCH], data.normalization))
        loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
    return loss_sum / len(split), correct / len(split)


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Cut an order of samples into batches; the last may be smaller.

    A single sample left over is not trained on in that epoch: BatchNorm cannot take a batch of one.
    """
    cut = list(order.split(batch_size))
    return cut[:-1] if len(cut) > 1 and len(cut[-1]) == 1 < batch_size else cut


def parameter_groups(model: nn.Module, decay_all: bool) -> list[dict[str, Any]]:
    """Group parameters for the optimizer; one-dimensional ones (biases, norms) get no weight decay.

    decay_all: one group with everything, so that weight decay holds all parameters.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    if decay_all:
        return [{"params": parameters}]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def copied_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy weights and buffers to the CPU, so that further training cannot change them."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def non_finite(epoch: int, train_loss: float, validation_loss: float, model: nn.Module) -> str | None:
    """Return what is no longer finite after an epoch, in words, or ``None``."""
    for name, loss in (("training", train_loss), ("validation", validation_loss)):
        if not math.isfinite(loss):
            return f"the {name} loss became {loss} in epoch {epoch}"
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            return f"{name} became non-finite in epoch {epoch}"
    return None


def on_device(data: Data, device: torch.device) -> Data:
    """Return the data with its training and validation splits on a device, for all members at once."""

    def moved(split: Split) -> Split:
        return Split(split.inputs.to(device), split.labels.to(device))

    return dataclasses.replace(data, train=moved(data.train), validation=moved(data.validation))
