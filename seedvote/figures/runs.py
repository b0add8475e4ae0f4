"""Several runs in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seedvote.comparison import Comparison
from seedvote.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    STYLE,
    legend_below,
    new_figure,
    percent_limits,
    reach,
    short,
    stacked,
)

_ROW = 0.75  # inches
_DOTS = 0.4  # of a row, at most, for dots that are stacked


def _row(axes: Axes, height: float, found: Comparison, labelled: bool) -> None:
    values = np.array([100 * member.test.accuracy for member in found.members.each])
    dots = stacked(values) - 1
    dots = height - 0.12 + dots * min(0.1, _DOTS / max(dots.max(), 1))
    names = {
        "single": "single seeds",
        "mean": "mean seed",
        "vote": f"{found.plan.rule} vote, {100 * found.plan.level:g} % interval",
    }
    label = {key: name if labelled else "_nolegend_" for key, name in names.items()}
    axes.axhline(height - 0.12, color=GREY, linewidth=0.4, zorder=0)
    axes.plot(values, dots, "o", color=BLUE, markersize=5, alpha=0.7, label=label["single"])
    mean = 100 * found.members.test.accuracy.mean
    axes.plot(mean, height - 0.12, "|", color=BLUE, markersize=16, markeredgewidth=1.5, label=label["mean"])
    if len(found.seeds) == 1:  # nobody to vote with
        return
    vote = found.primary
    axes.errorbar(
        100 * vote.scores.accuracy, height - 0.28, xerr=reach([vote.scores.accuracy], [vote.interval]), fmt="D",
        color=ORANGE, markersize=6, capsize=3, linewidth=1, label=label["vote"],
    )  # fmt: skip


def draw_runs(runs: Sequence[tuple[str, Comparison]], note: str = "") -> Figure:
    """Draw for each run the test accuracy of its single seeds, their mean, and its vote with its interval.

    runs: names and comparisons of one plan. note: written above the figure.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(height=1.3 + _ROW * len(runs))
        first = next((row for row, (_, found) in enumerate(runs) if len(found.seeds) > 1), 0)
        for row, (name, found) in enumerate(runs):
            _row(axes, -row, found, labelled=row == first)
            # Above its row: beside it, a long name would take the width of a phone.
            axes.text(0, 0.35 - row, short(name, 50), transform=axes.get_yaxis_transform(), fontsize=9, va="center")
        axes.set_ylim(0.5 - len(runs), 0.55)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        axes.set_xlabel("test accuracy (%)")
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.set_xlim(percent_limits(*axes.get_xlim()))
        legend_below(figure, axes)
        if note:
            figure.suptitle(note, fontsize=10, color=ORANGE, fontweight="bold")
    return figure
