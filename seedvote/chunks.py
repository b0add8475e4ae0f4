"""Logits of some samples at a time, and what voting rules make of them in the cache of a processor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CHUNK_ELEMENTS = 2**18  # 2 MiB of float64 for each array, whatever the number of samples


class Chunk:
    """Logits ``[M, S, C]`` of some samples, and what several rules make of them, each computed at most once.

    buffers: four arrays of that shape to work in. Fresh memory for each chunk would take longer than the sums.
    """

    def __init__(self, logits: NDArray[np.generic], buffers: Sequence[Floats]) -> None:
        self.logits, self._logs, self._probabilities, self._ordered = buffers
        np.copyto(self.logits, logits, casting="unsafe")

    @cached_property
    def first_choices(self) -> Integers:
        """Each member's own decision, ``[M, S]``."""
        choices: Integers = self.logits.argmax(axis=2)
        return choices

    @cached_property
    def log_probabilities(self) -> Floats:
        """Of each member for each class, ``[M, S, C]``."""
        return log_probabilities(self.logits, self._logs, self._probabilities)

    @cached_property
    def probabilities(self) -> Floats:
        """Of each member for each class, ``[M, S, C]``."""
        return np.exp(self.log_probabilities, out=self._probabilities)

    def ordered(self, values: Floats) -> Floats:
        """Values in ascending order over the members, until this is asked for again."""
        np.copyto(self._ordered, values)
        self._ordered.sort(axis=0)
        return self._ordered


def chunks(values: NDArray[np.generic], members: Integers, samples: Integers) -> Iterator[Chunk]:
    """Cut the members' logits along some consecutive samples; each chunk is good until the next one is taken."""
    classes = values.shape[2]
    step = max(1, CHUNK_ELEMENTS // (len(members) * classes))
    kept = slice(None) if len(members) == len(values) else members
    buffers = np.empty((4, len(members), min(step, len(samples)), classes))
    for start in range(0, len(samples), step):
        piece = samples[start : start + step]
        yield Chunk(values[kept, piece[0] : piece[-1] + 1], [buffer[:, : len(piece)] for buffer in buffers])


def log_probabilities(logits: Floats, into: Floats | None = None, space: Floats | None = None) -> Floats:
    """``log_softmax`` over the last axis; into: what holds the result, space: what is overwritten meanwhile."""
    with np.errstate(over="ignore"):  # the distance of two huge logits may overflow to -inf, as it should
        result: Floats = np.subtract(logits, logits.max(axis=-1, keepdims=True), out=into)
        result -= np.log(np.exp(result, out=space).sum(axis=-1, keepdims=True))
    return result
