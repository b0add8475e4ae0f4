"""What happens while members train, and who does it and who keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from seedvote.types import Data, EpochRecord, Recipe, Snapshot, TrainedMember

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class Keeper(Protocol):
    """Where members are kept while they train and when they are done, as engines and the training loop see it."""

    def claim(self, seeds: Sequence[int]) -> AbstractContextManager[list[int]]:
        """Hold members for this process alone; give those that nobody else holds and that are not done."""
        ...

    def load(self, seed: int) -> Snapshot | None:
        """Return where a member stood when it was last saved."""
        ...

    @property
    def observes(self) -> bool:
        """Whether somebody looks at each epoch more closely: ``Progress`` is to bring an ``Observation`` then."""
        ...

    def due(self, epoch_over: bool) -> bool:
        """Say whether it is time to save the members that are held."""
        ...

    def save(self, snapshots: Mapping[int, Snapshot]) -> None:
        """Save where members stand, by seed."""
        ...

    def finish(self, member: TrainedMember) -> None:
        """Store a member whose training is over."""
        ...

    def notes(self) -> list[str]:
        """Return what the user should know of what was found, once."""
        ...


@dataclass(frozen=True)
class Histogram:
    """How the finite numbers of a tensor are spread.

    count, total, squares: how many they are, their sum, and the sum of their squares. edges: ``[K + 1]``, of K equally
    wide intervals from the smallest number to the largest. counts: ``[K]``.
    """

    count: int
    total: float
    squares: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Observation:
    """What a member is like at the end of an epoch, for somebody who watches.

    weights: by parameter. gradients: those of the epoch's last step, after clipping; of parameters that have one.
    logits: ``[S, C]``, of the validation split.
    """

    weights: Mapping[str, Histogram]
    gradients: Mapping[str, Histogram]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Progress:
    """One finished epoch of one member. observation: if the keeper observes."""

    seed: int
    record: EpochRecord
    observation: Observation | None = None


@dataclass(frozen=True)
class Paused:
    """A member whose training was told to stop on the way; it is saved after so many epochs and steps."""

    seed: int
    epochs: int
    steps: int


@dataclass(frozen=True)
class Elsewhere:
    """A member that another process trains, or has trained in the meantime."""

    seed: int


@dataclass(frozen=True)
class Failure:
    """A member whose training broke off with an error or with its process; the others go on.

    reason: in words. retried: whether it is tried once more.
    """

    seed: int
    reason: str
    retried: bool


@dataclass(frozen=True)
class Note:
    """Something that an engine has to say to the user, in one line."""

    text: str


Event = Progress | TrainedMember | Paused | Elsewhere | Failure | Note


class Engine(Protocol):
    """A way to train many members; what a member becomes does not depend on the others.

    ``train`` yields a ``Progress`` after each epoch and, last for each seed, a ``TrainedMember``, a ``Paused``, an
    ``Elsewhere`` or a ``Failure``; the seeds in any order.
    """

    def train(
        self, seeds: Sequence[int], recipe: Recipe, data: Data, device: torch.device, keeper: Keeper
    ) -> Iterator[Event]:
        """Train one member for each seed."""
        ...
