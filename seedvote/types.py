"""Records that pass between the layers.

Axis letters used throughout: ``M`` members, ``S`` samples, ``C`` classes, ``B`` samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

# A member's random streams. The numbers are part of what a seed means: never renumber, only append.
STREAMS = {"init": 0, "order": 1, "augment": 2, "dropout": 3, "sample": 4}
# When a schedule is stepped; after `validation`, with the member's validation loss.
INTERVALS = ("step", "epoch", "validation")


@dataclass(frozen=True)
class Split:
    """Samples with their labels.

    inputs: ``[S, channels, height, width]`` (images) or ``[S, features]`` (vectors); ``uint8`` in 0..255
    or ``float32``, as they came, not normalised. labels: ``[S]``, ``int64``, class indices in ``0 .. C-1``.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """What a data set offers before seedvote carves it: the return value of every ``data._target_``.

    test: the official test split, or ``None`` where the data set has none and one is to be carved.
    classes: class names; label ``i`` is ``classes[i]``.
    scratch: a directory for files as large as the samples, where those lie in files themselves; ``None`` where they are
    in memory anyway.
    """

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    scratch: str | None = None


@dataclass(frozen=True)
class Normalization:
    """Maps raw inputs to network inputs: ``(x - mean) / std`` for each channel (images) or feature (vectors).

    mean, std: ``C'`` numbers each, in the units of the raw inputs, from the training split alone.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Maps normalised inputs to network inputs: ``factor (x - mean)`` for each sample ``x``, flattened to ``[D]``.

    mean: ``[D]``. factor: ``[D]``, one number for each of ``x``, or ``[K, D]``, a matrix; both ``float32`` and from the
    training split alone. shape: of one sample after it, with ``D`` or ``K`` numbers.
    """

    mean: npt.NDArray[np.float32]
    factor: npt.NDArray[np.float32]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Data:
    """A data set, split for good: nothing after this touches the borders between the splits.

    fingerprint: hex digest of every input, label and class name of the three splits.
    sample: True where ``data.limit`` cut the splits down, so that results are no results.
    preprocessing: what follows normalisation and augmentation, if anything does.
    scratch: where the files lie that samples are mapped from, if they would take too much memory.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    normalization: Normalization
    fingerprint: str
    sample: bool = False
    preprocessing: Preprocessing | None = None
    scratch: str | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, ``(channels, height, width)`` or ``(features,)``."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Shape of one sample as networks get it."""
        return self.input_shape if self.preprocessing is None else self.preprocessing.shape


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes a member's weights, as plain callables and numbers.

    build_model: makes the network on the CPU, drawing default weights from torch's global generator.
    initialize: redraws the weights in place from the generator it is given (or leaves them).
    augment: maps normalised inputs ``[B, ...]`` to inputs of the same shape; draws from the generator.
    build_optimizer: takes torch parameter groups.
    build_scheduler: takes the optimizer and the total number of steps.
    clip_norm: largest gradient norm, or ``None``.
    decay_all: whether weight decay also holds biases and norm parameters (one-dimensional tensors).
    patience: epochs without a better validation loss after which training stops, or ``None``.
    vary: the streams that follow the member's seed; the others follow ``shared_seed``.
    interval: when the schedule is stepped, one of ``INTERVALS``.
    clip_value: largest size of a gradient's numbers, or ``None``.
    l1: strength of the L1 penalty on what weight decay holds.
    max_norm: largest L2 norm of the weights that lead into a unit, after every step, or ``None``.
    frozen: patterns for parameters that keep the first weights of ``shared_seed`` and are not trained.
    bootstrap: whether a member trains on a bootstrap sample of the training split, from its ``sample`` stream.
    variants: recipes that members take in turn, the member of seed ``s`` the one at ``s mod K``; what the recipe itself
    says then stands for the first of them. Empty where members differ in their seed alone.
    """

    build_model: Callable[[], nn.Module]
    initialize: Callable[[nn.Module, torch.Generator], None]
    augment: Callable[[Tensor, np.random.Generator], Tensor]
    build_optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    build_scheduler: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler]
    epochs: int
    batch_size: int
    label_smoothing: float
    clip_norm: float | None
    decay_all: bool
    patience: int | None
    vary: tuple[str, ...]
    shared_seed: int
    interval: str = "step"
    clip_value: float | None = None
    l1: float = 0.0
    max_norm: float | None = None
    frozen: tuple[str, ...] = ()
    bootstrap: bool = False
    variants: tuple[Recipe, ...] = ()

    def of(self, seed: int) -> Recipe:
        """Return the recipe of one member, in which nothing but the seed is open."""
        return self.variants[seed % len(self.variants)] if self.variants else self

    def alike(self, seeds: Sequence[int]) -> list[list[int]]:
        """Return the seeds apart by what their members differ in besides the seed."""
        kinds: dict[int, list[int]] = {}
        for seed in seeds:
            kinds.setdefault(seed % max(1, len(self.variants)), []).append(seed)
        return list(kinds.values())


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of one member came to.

    epoch: counted from 1. train_loss: mean over the epoch's samples as they were trained on (nats, label
    smoothing included). validation_loss: mean negative log-likelihood (nats). validation_accuracy: fraction.
    learning_rate: after the epoch's last step; a schedule in epochs changes it afterwards. seconds: wall time,
    validation included.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainedMember:
    """A member whose training is over.

    state: weights and buffers by name, on the CPU, sharing no memory with anything.
    history: one record an epoch. kept_epoch: the epoch whose weights ``state`` holds (0: the initial ones).
    seconds: of computing; where members share a step, each has its share of the time. diverged: why training broke
    off, or ``None``; ``state`` is then the last finite one. engine: the name of the one that did it.
    """

    seed: int
    state: Mapping[str, Tensor]
    history: tuple[EpochRecord, ...]
    kept_epoch: int
    seconds: float
    diverged: str | None = None
    engine: str = "sequential"


@dataclass(frozen=True)
class Snapshot:
    """Where a member in training stands: all that going on from here needs. Random draws follow from the seed.

    history: the epochs that are over. step, loss_sum, epoch_seconds: how many steps of the next epoch were taken, the
    sum of their samples' losses (nats), and how long they took. state: weights and buffers. kept, kept_epoch: what the
    member would be if it stopped now. optimizer: its state by parameter name; groups: the numbers of its parameter
    groups. seconds: of computing so far.
    """

    history: tuple[EpochRecord, ...]
    step: int
    loss_sum: Tensor
    epoch_seconds: float
    state: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    kept_epoch: int
    optimizer: Mapping[str, Mapping[str, Any]]
    groups: list[dict[str, Any]]
    seconds: float
