"""The vote on the validation split while members train: what they come to after each epoch, kept in few sums.

Members may train one after another, side by side, or days apart, so whose vote is scored must not depend on when they
do: it is that of the first 2, 4, 8, ... of the run's seeds in ascending order, and that of all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from filelock import FileLock
from numpy.typing import NDArray
from scipy.special import softmax

from seedvote.files import opened, write_bytes
from seedvote.voting import TIE_TOLERANCE

# Numbers that are kept of each epoch and committee, at most: 16 MiB. Beyond, there is no running vote.
LARGEST = 2**21
LONGEST_NAME = 100

Sums = dict[frozenset[int], NDArray[np.float64]]


@dataclass(frozen=True)
class RunningVote:
    """What a committee came to after an epoch: the soft vote of its members as they were then.

    accuracy: fraction of validation samples. loss: mean negative log-likelihood of the members' mean probability
    (nats).
    """

    seeds: tuple[int, ...]
    epoch: int
    accuracy: float
    loss: float


class VoteCounter:
    """Adds up the members' probabilities, in one file an epoch, so that neither a break nor another process matters."""

    def __init__(self, directory: Path, seeds: Sequence[int], labels: NDArray[np.int64]) -> None:
        """Count in a directory. seeds: of the run. labels: ``[S]``, of the validation split."""
        ordered = sorted(seeds)
        sizes = {2**power for power in range(1, len(ordered).bit_length())} | {len(ordered)}
        self._committees = [ordered[:size] for size in sorted(sizes) if 1 < size <= len(ordered)]
        self._directory, self._labels = directory, labels

    def add(self, seed: int, epoch: int, logits: NDArray[np.float32]) -> Iterator[RunningVote]:
        """Count a member's logits ``[S, C]`` after an epoch; yield the votes that it completes.

        The member counts once all of them were taken; until then no other process counts one. A member that is told
        twice counts once: resumed, it repeats what it was.
        """
        if not self._committees or logits.size > LARGEST:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"epoch-{epoch:04d}.safetensors"
        with FileLock(self._directory / ".lock"):
            sums = _read(path, logits.shape)
            if any(seed in members for members in sums):
                return
            sums[frozenset([seed])] = softmax(logits.astype(np.float64), axis=1)
            for smaller, committee in pairwise([[], *self._committees]):
                merged = _merged(sums, committee, smaller)
                if seed in committee and merged is not None:
                    yield self._vote(tuple(committee), epoch, merged)
            write_bytes(path, safetensors.numpy.save({_name(members): total for members, total in sums.items()}))

    def _vote(self, seeds: tuple[int, ...], epoch: int, total: NDArray[np.float64]) -> RunningVote:
        mean = total / len(seeds)
        # Ties go to the lowest class, as in seedvote.voting.
        chosen = (mean >= mean.max(axis=1, keepdims=True) - TIE_TOLERANCE).argmax(axis=1)
        right = mean[np.arange(len(mean)), self._labels]
        loss = -float(np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean())
        return RunningVote(seeds, epoch, float((chosen == self._labels).mean()), loss)


def committee_name(seeds: Sequence[int]) -> str:
    """Return a directory's name for some seeds in ascending order, such as ``vote-of-4-seeds-0-to-2-and-7``."""
    breaks = [0, *(place for place, (one, next_) in enumerate(pairwise(seeds), 1) if next_ != one + 1), len(seeds)]
    ranges = [seeds[start:end] for start, end in pairwise(breaks)]
    words = [str(part[0]) if len(part) == 1 else f"{part[0]}-to-{part[-1]}" for part in ranges]
    name = f"vote-of-{len(seeds)}-seeds-{'-and-'.join(words)}"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _merged(sums: Sums, committee: Sequence[int], smaller: Sequence[int]) -> NDArray[np.float64] | None:
    """Make one sum of those of a committee, and return it, if it is complete; else of those not in a smaller one."""
    within = [members for members in sums if members.issubset(committee)]
    complete = sum(map(len, within)) == len(committee)
    if not complete:
        within = [members for members in within if not members.issubset(smaller)]
    if not within:
        return None
    joined = frozenset[int]().union(*within)
    sums[joined] = np.sum([sums.pop(members) for members in within], axis=0)
    return sums[joined] if complete else None


def _read(path: Path, shape: tuple[int, ...]) -> Sums:
    """Read an epoch's sums; a file that is damaged or of other data is as good as none."""
    try:
        with opened(path) as file:
            tensors = safetensors.numpy.load(file.read())
        sums = {frozenset(map(int, name.split("-"))): tensor for name, tensor in tensors.items()}
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):  # KeyError: a type that NumPy lacks
        return {}
    sound = all(total.shape == shape and total.dtype == np.float64 for total in sums.values())
    return sums if sound else {}


def _name(members: frozenset[int]) -> str:
    return "-".join(map(str, sorted(members)))
