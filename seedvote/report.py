"""Records and scores as text for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from seedvote import metrics
from seedvote.errors import listed
from seedvote.store import MemberRecord
from seedvote.types import EpochRecord
from seedvote.variants import labels
from seedvote.voting import Vote

SAMPLE = "sample, not a result (data.limit is set)"


class ProgressBars:
    """One bar over members and one over all their epochs; no bars where there is no terminal."""

    def __init__(self, epochs: Mapping[int, int]) -> None:
        """Draw both bars. epochs: of each member, by seed."""
        self._epochs_left, self._epochs_each = dict(epochs), epochs
        total = sum(epochs.values())
        self._members = tqdm(total=len(epochs), desc="members", unit="member", disable=None, position=0)
        self._epochs = tqdm(total=total, desc="epochs ", unit="epoch", disable=None, position=1, leave=False)

    def epoch(self, seed: int, record: EpochRecord) -> None:
        """Show a finished epoch."""
        self._epochs_left[seed] = self._epochs_each[seed] - record.epoch
        self._epochs.set_postfix_str(
            f"seed {seed}: loss {record.train_loss:.4f}, val {percent(record.validation_accuracy)}", refresh=False
        )
        self._epochs.update()

    def member(self, seed: int, line: str) -> None:
        """Show a finished member in a line of its own, which stays."""
        self.note(line)
        # A member that stopped early leaves epochs that nobody will train.
        self._epochs.update(self._epochs_left.pop(seed, 0))
        self._members.update()

    def note(self, line: str) -> None:
        """Show a line above the bars."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Take the bars away."""
        self._epochs.close()
        self._members.close()


def percent(fraction: float) -> str:
    """Return a fraction as per cent with two decimals."""
    return f"{100 * fraction:.2f} %"


def points(difference: float) -> str:
    """Return a difference of fractions in percentage points, with its sign."""
    return f"{100 * difference:+.2f} points"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows in columns; the first column is flush left, the others flush right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join([first, *rest]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def variant_lines(recipe: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """Say in one line each what sets the variants of a recipe apart and whose they are; nothing where all are alike."""
    found = labels(recipe)
    if len(found) == 1:
        return []
    return [
        f"variant    {label}: seeds {listed(own)}"
        for place, label in enumerate(found)
        if (own := [seed for seed in seeds if seed % len(found) == place])
    ]


def member_line(record: MemberRecord) -> str:
    """Say in one line how a member came out."""
    if record.diverged:
        return f"seed {record.seed}: diverged, {record.diverged}"
    kept = record.kept
    return (
        f"seed {record.seed}: validation accuracy {percent(kept['validation_accuracy'])}, "
        f"loss {kept['validation_loss']:.4f}, {record.seconds:.1f} s"
    )


def members_table(records: Sequence[MemberRecord]) -> str:
    """Return the table of a run's members, as ``train`` shows it at its end."""
    rows = []
    for record in records:
        kept = record.kept
        rows.append(
            [
                f"seed {record.seed}",
                f"{record.kept_epoch}/{len(record.history)}",
                f"{kept['train_loss']:.4f}" if kept else "-",
                f"{kept['validation_loss']:.4f}" if kept else "-",
                percent(kept["validation_accuracy"]) if kept else "-",
                f"{record.seconds:.1f}",
                "diverged" if record.diverged else "finished",
            ]
        )
    header = ["member", "epoch", "train loss", "val loss", "val accuracy", "seconds", "status"]
    return table(header, rows)


def comparison_table(
    members: Sequence[MemberRecord],
    logits: npt.NDArray[np.float32],
    votes: Mapping[str, Vote],
    targets: npt.NDArray[np.int64],
) -> str:
    """Set single seeds beside each vote; logits ``[M, S, C]``, targets ``[S]``.

    The gain is the vote's accuracy minus the mean of the single seeds. Images won and lost are counted against the
    member with the best validation accuracy (then the lowest validation loss): nothing is chosen on these targets.
    """
    single = metrics.member_accuracies(logits, targets)
    mean, deviation = metrics.mean_and_deviation(single)
    best = min(
        range(len(members)),
        key=lambda place: (
            -members[place].kept["validation_accuracy"],
            members[place].kept["validation_loss"],
        ),
    )
    reference = metrics.member_labels(logits)[best]
    spread = "-" if deviation is None else f"± {100 * deviation:.2f}"
    rows = [
        [
            f"single seeds (n = {len(members)})",
            percent(mean),
            spread,
            percent(single.min()),
            percent(single.max()),
        ]
        + ["", "", "", ""]
    ]
    for rule, vote in votes.items():
        scored = metrics.accuracy(vote.labels, targets)
        won, lost = metrics.won_and_lost(vote.labels, reference, targets)
        rows.append(
            [f"{rule} vote", percent(scored), "", "", "", points(scored - mean)]
            + [str(len(won)), str(len(lost)), str(int(vote.tied.sum()))]
        )
    header = ["", "accuracy", "SD", "min", "max", "gain", "won", "lost", "ties"]
    return (
        f"{table(header, rows)}\n\n"
        f"gain: against the mean single seed. won, lost: samples against seed {members[best].seed}, the best on "
        f"validation ({percent(single[best])} here)."
    )
