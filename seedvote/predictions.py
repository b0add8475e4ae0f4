"""Votes as files: a table for people and spreadsheets, arrays for programs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seedvote.files import replaced
from seedvote.metrics import entropy
from seedvote.voting import ABSTAINED, Vote


@dataclass(frozen=True)
class Prediction:
    """A vote on some samples, with what is needed to write it down.

    member_labels: ``[M, S]``, each member's own decision. targets: ``[S]``, true labels, where known.
    files: the picture that each sample came from, where it did.
    """

    vote: Vote
    member_labels: npt.NDArray[np.int64]
    seeds: Sequence[int]
    classes: Sequence[str]
    targets: npt.NDArray[np.int64] | None = None
    files: Sequence[str] | None = None


def write_csv(path: Path, prediction: Prediction) -> None:
    """Write one row a sample: index, file, true and predicted class, probability, votes, entropy, members' votes.

    probability: the winner's share of the rule's scores; of an abstention, the highest share. votes: members that
    put the winner first. entropy: of the rule's scores, in nats. ``file`` and ``true`` are there where they are known.
    """
    vote, classes = prediction.vote, prediction.classes
    header = ["index", "predicted", "probability", "votes", "entropy"]
    header += [f"seed_{seed}" for seed in prediction.seeds]
    columns: list[Sequence[object]] = [
        range(len(vote.labels)),
        ["abstained" if label == ABSTAINED else classes[label] for label in vote.labels],
        [f"{value:.6f}" for value in vote.probabilities.max(axis=1)],
        vote.votes.tolist(),
        [f"{value:.6f}" for value in entropy(vote.probabilities)],
    ]
    columns += [[classes[label] for label in labels] for labels in prediction.member_labels]
    if prediction.targets is not None:
        header.insert(1, "true")
        columns.insert(1, [classes[label] for label in prediction.targets])
    if prediction.files is not None:
        header.insert(1, "file")
        columns.insert(1, prediction.files)
    with replaced(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))


def write_npz(path: Path, prediction: Prediction) -> None:
    """Write the vote as arrays.

    ``probabilities [S, C]``, ``labels [S]`` (-1: abstained), ``classes [C]``, ``seeds [M]`` and, where they are known,
    ``targets [S]``.
    """
    arrays: dict[str, Any] = {
        "probabilities": prediction.vote.probabilities,
        "labels": prediction.vote.labels,
        "classes": np.array(prediction.classes),
        "seeds": np.array(prediction.seeds),
    }
    if prediction.targets is not None:
        arrays["targets"] = prediction.targets
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
