"""From a seed to random streams.

A member draws from five named streams. Each draw's generator is derived afresh from a hash of (seed, stream,
position), where the position is the epoch and the step: no generator state is carried along, so a resumed
member draws what an uninterrupted one would, and no draw depends on how many members there are.

The hash is ``numpy.random.SeedSequence`` with the stream and position as its spawn key (M. O'Neill,
"Developing a seed_seq alternative", 2015; NumPy documentation, "Parallel random number generation").
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from seedvote.types import STREAMS


@dataclass(frozen=True)
class Streams:
    """The random streams of one member.

    seed: the member's seed, >= 0. vary: names of the streams that follow ``seed``; the others follow
    ``shared_seed`` and are therefore the same for all members.
    """

    seed: int
    vary: tuple[str, ...] = tuple(STREAMS)
    shared_seed: int = 0

    def generator(self, stream: str, *position: int) -> np.random.Generator:
        """Return NumPy's generator for a stream at a position (epoch, step)."""
        return np.random.Generator(np.random.PCG64(self._sequence(stream, position)))

    def number(self, stream: str, *position: int) -> int:
        """Return a 64-bit seed for a torch generator; torch's CPU generator uses its low 32 bits."""
        return int(self._sequence(stream, position).generate_state(1, np.uint64)[0])

    def _sequence(self, stream: str, position: tuple[int, ...]) -> np.random.SeedSequence:
        seed = self.seed if stream in self.vary else self.shared_seed
        return np.random.SeedSequence(seed, spawn_key=(STREAMS[stream], *position))


_GLOBAL_GENERATORS = threading.RLock()


@contextmanager
def restored_generators(device: torch.device) -> Iterator[None]:
    """Give torch's global generators back as they were, whatever is drawn inside; one thread at a time has them."""
    with _GLOBAL_GENERATORS:
        if device.type in ("cuda", "mps"):
            devices = [device.index or 0]
            with torch.random.fork_rng(devices=devices, device_type=device.type):
                yield
        else:
            with torch.random.fork_rng(devices=[]):
                yield


def seed_device(device: torch.device, number: int) -> None:
    """Seed the global generator that layers such as dropout draw from on this device."""
    # torch.manual_seed would do, but it queues a call for every absent accelerator, once a step.
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)
    else:
        torch.default_generator.manual_seed(number)
