"""Where a member in training stands: how far it came, how it did, and which weights to keep."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seedvote.seeding import Streams
from seedvote.types import Data, EpochRecord, Recipe, Snapshot, TrainedMember


@dataclass
class Course:
    """How the training of one member is going: its history, and which weights to keep.

    kept: the weights of the best epoch if there is early stopping, else of the last epoch; always finite. step,
    loss_sum: steps taken in the epoch at hand, and the sum of their samples' losses (nats). share: the part of the
    time that is this member's, where several share a step.
    """

    seed: int
    patience: int | None
    kept: Mapping[str, Tensor]
    history: list[EpochRecord] = field(default_factory=list)
    kept_epoch: int = 0
    diverged: str | None = None
    step: int = 0
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    share: float = 1.0
    # When the training and the epoch at hand would have begun, had there been no break.
    _began: float = field(default_factory=time.perf_counter)
    _epoch_began: float = field(default_factory=time.perf_counter)

    @property
    def epoch(self) -> int:
        """The epoch at hand, counted from 1."""
        return len(self.history) + 1

    def record(self, train_loss: float, validation_loss: float, accuracy: float, learning_rate: float) -> EpochRecord:
        """Return the record of the epoch at hand, which ends now."""
        seconds = (time.perf_counter() - self._epoch_began) * self.share
        return EpochRecord(self.epoch, train_loss, validation_loss, accuracy, learning_rate, seconds)

    def goes_on(self, record: EpochRecord, state: Mapping[str, Tensor]) -> bool:
        """Note an epoch and the weights after it; return False if the member diverged in it."""
        self.diverged = non_finite(record, state)
        if self.diverged is None:
            lowest = self.history[self.kept_epoch - 1].validation_loss if self.kept_epoch else math.inf
            if self.patience is None or record.validation_loss < lowest:
                self.kept, self.kept_epoch = state, record.epoch
            self.history.append(record)
        self.step, self.loss_sum = 0, torch.zeros_like(self.loss_sum)
        self._epoch_began = time.perf_counter()
        return self.diverged is None

    def over(self, epochs: int) -> bool:
        """Say whether training ends here: all epochs done, diverged, or no better for too long."""
        stale = len(self.history) - self.kept_epoch
        too_long = self.patience is not None and stale >= self.patience
        return len(self.history) >= epochs or self.diverged is not None or too_long

    def member(self) -> TrainedMember:
        """Return what became of the member."""
        seconds = (time.perf_counter() - self._began) * self.share
        return TrainedMember(self.seed, self.kept, tuple(self.history), self.kept_epoch, seconds, self.diverged)

    def snapshot(
        self,
        state: Mapping[str, Tensor],
        optimizer: Mapping[str, Mapping[str, Any]],
        groups: list[dict[str, Any]],
    ) -> Snapshot:
        """Return where the member stands, given copies of its weights and of its optimizer's state."""
        now = time.perf_counter()
        unchanged = self.step == 0 and self.kept_epoch == len(self.history)
        return Snapshot(
            history=tuple(self.history),
            step=self.step,
            loss_sum=self.loss_sum.to("cpu", copy=True),
            epoch_seconds=(now - self._epoch_began) * self.share,
            state=state,
            kept=state if unchanged else self.kept,
            kept_epoch=self.kept_epoch,
            optimizer=optimizer,
            groups=groups,
            seconds=(now - self._began) * self.share,
        )

    def resume(self, snapshot: Snapshot) -> None:
        """Stand where a snapshot was taken."""
        now = time.perf_counter()
        self.history, self.step = list(snapshot.history), snapshot.step
        self.kept, self.kept_epoch = snapshot.kept, snapshot.kept_epoch
        self.loss_sum = snapshot.loss_sum
        self._began = now - snapshot.seconds / self.share
        self._epoch_began = now - snapshot.epoch_seconds / self.share


def epoch_order(streams: Streams, epoch: int, recipe: Recipe, data: Data) -> Tensor:
    """Return which training samples a member sees in an epoch, ``[S]``, in its own order.

    With ``recipe.bootstrap`` these are S draws with replacement, the same in every epoch (Efron, 1979).
    """
    count = len(data.train)
    order = streams.generator("order", epoch).permutation(count)
    if recipe.bootstrap:
        order = streams.generator("sample").integers(count, size=count)[order]
    return torch.from_numpy(order)


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Cut an order of samples into batches; the last may be smaller.

    A single sample left over is not trained on in that epoch: BatchNorm cannot take a batch of one.
    """
    cut = list(order.split(batch_size))
    return cut[:-1] if len(cut) > 1 and len(cut[-1]) == 1 < batch_size else cut


def steps_an_epoch(recipe: Recipe, data: Data) -> int:
    """Return how many steps an epoch of the training split has."""
    return len(batches(torch.arange(len(data.train)), recipe.batch_size))


def samples_an_epoch(recipe: Recipe, data: Data) -> int:
    """Return how many samples are trained on in an epoch."""
    return sum(len(batch) for batch in batches(torch.arange(len(data.train)), recipe.batch_size))


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
