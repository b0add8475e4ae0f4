"""The samples that the vote saved and lost, each with its members' votes."""

from __future__ import annotations

import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from seedvote.comparison import Comparison
from seedvote.figures.style import GREEN, ORANGE, WIDTH, short

PICTURES = 6  # of each kind on the contact sheet
LISTED_SEEDS = 16  # with more members the contact sheet only counts their votes

Pictures = NDArray[np.uint8]


def pictures_to_show(comparison: Comparison) -> tuple[list[int], list[int]]:
    """Return the first samples that the vote wins from, and loses to, the member chosen on validation."""
    chosen = comparison.primary.chosen
    return chosen.won_samples[:PICTURES].tolist(), chosen.lost_samples[:PICTURES].tolist()


def contact_sheet(comparison: Comparison, pictures: Pictures) -> Figure:
    """Draw the samples that the vote saved and lost, each with who voted for what."""
    columns = 3
    groups = [
        (title, samples)
        for title, samples in zip(("saved", "lost"), pictures_to_show(comparison), strict=True)
        if samples
    ]
    rows = sum(math.ceil(len(samples) / columns) for _, samples in groups)
    figure = Figure(figsize=(WIDTH, 2.7 * rows), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False)
    for cell in cells.flat:
        cell.axis("off")
    row = 0
    for title, samples in groups:
        for place, sample in enumerate(samples):
            _picture(cells[row + place // columns, place % columns], comparison, pictures[sample], sample, title)
        row += math.ceil(len(samples) / columns)
    return figure


def _picture(axes: Axes, comparison: Comparison, picture: Pictures, sample: int, title: str) -> None:
    decisions, names = comparison.decisions, [short(name) for name in comparison.classes]
    own = decisions.member_labels[:, sample]
    vote = int(decisions.vote_labels[sample])
    voted = names[vote] if vote >= 0 else "nothing"
    if picture.shape[0] == 1:
        axes.imshow(picture[0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(picture.transpose(1, 2, 0))
    axes.set_title(
        f"{title}: no. {sample}\ntrue: {names[decisions.targets[sample]]}\nvote: {voted}",
        fontsize=9, color=GREEN if title == "saved" else ORANGE,
    )  # fmt: skip
    lines: list[str] = []
    for label in sorted(set(own.tolist()), key=lambda each: (-(own == each).sum(), each)):
        seeds = [str(comparison.seeds[place]) for place in np.flatnonzero(own == label)]
        who = f"seeds {' '.join(seeds)}" if len(own) <= LISTED_SEEDS else f"{len(seeds)} members"
        lines += textwrap.wrap(f"{names[label]}: {who}", 23, break_long_words=True)
    if len(lines) > 5:
        lines = [*lines[:5], "…"]
    axes.text(0.5, -0.04, "\n".join(lines), transform=axes.transAxes, ha="center", va="top", fontsize=8)
