"""Raw samples as network inputs, a piece at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seedvote.data.normalization import network_inputs
from seedvote.data.preprocessing import preprocessed
from seedvote.types import Normalization, Preprocessing

ON_ACCELERATORS = 1000
# On the CPU: so many samples that multiplying matrices pays, so few that a layer's output stays near the processor.
MOST, LEAST = 512, 32
NUMBERS = 2**18
KEPT_BYTES = 2**28


class Pieces:
    """Raw samples ``[S, ...]``, cut into pieces that become network inputs ``[B, ...]`` when they are asked for.

    How they are cut follows from the samples and the device alone. keep: several networks will ask; a piece is then
    made once, as long as those before it and itself fit in 256 MiB. Threads may ask for different pieces at once.
    """

    def __init__(
        self,
        raw: Tensor,
        normalization: Normalization,
        preprocessing: Preprocessing | None,
        device: torch.device,
        keep: bool = False,
    ) -> None:
        self._raw, self._device = raw, device
        self._normalization, self._preprocessing = normalization, preprocessing
        shape = tuple(raw.shape[1:]) if preprocessing is None else preprocessing.shape
        numbers = math.prod(shape)
        small = max(LEAST, min(MOST, NUMBERS // numbers))
        self._size = small if device.type == "cpu" else ON_ACCELERATORS
        self._keep = KEPT_BYTES // (4 * numbers * self._size) if keep else 0
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._raw)

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return math.ceil(len(self._raw) / self._size)

    def place(self, index: int) -> slice:
        """Which samples a piece holds."""
        return slice(index * self._size, (index + 1) * self._size)

    def inputs(self, index: int) -> Tensor:
        """Return a piece as network inputs ``[B, ...]``, ``float32``, for the caller to do with as it likes."""
        if index in self._kept:
            return self._kept[index].clone()  # a network may change its inputs in place
        batch = self._made(self.place(index))
        if index < self._keep:
            self._kept[index] = batch.clone()
        return batch

    def sample(self, count: int) -> Tensor:
        """Return the first samples as network inputs ``[count or S, ...]``; nothing is kept."""
        return self._made(slice(count))

    def _made(self, where: slice) -> Tensor:
        batch = network_inputs(self._raw[where].to(self._device), self._normalization)
        return preprocessed(batch, self._preprocessing)
