"""A comparison of one run as figures."""

from __future__ import annotations

import math
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from seedvote.comparison import MEASURES, Comparison
from seedvote.figures.pictures import Pictures, contact_sheet, pictures_to_show
from seedvote.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    STYLE,
    legend_below,
    new_figure,
    percent_limits,
    reach,
    stacked,
)

_LINES = {
    "max_probability": (BLUE, "-"),
    "negative_entropy": (ORANGE, "--"),
    "negative_mutual_information": (GREEN, "-."),
    "agreement": (PURPLE, ":"),
}


def draw(comparison: Comparison, pictures: Pictures | None = None, note: str = "") -> dict[str, Figure]:
    """Return the figures of a comparison by name, in the order in which to show them.

    pictures: ``[S, channels, height, width]``, the test inputs, where they are images with 1 or 3 channels.
    note: written above every figure. Figures that would be empty are left out.
    """
    several = len(comparison.seeds) > 1
    figures: dict[str, Callable[[], Figure]] = {}
    if comparison.calibration.temperature is not None:
        figures["reliability"] = lambda: reliability(comparison)
    if several:
        figures = {
            "spread": lambda: spread(comparison),
            "committees": lambda: committees(comparison),
            **figures,
            "disagreement": lambda: disagreement(comparison),
        }
    if comparison.selective:
        figures["selective"] = lambda: selective(comparison)
    if several and pictures is not None and (shown := pictures_to_show(comparison))[0] + shown[1]:
        figures["pictures"] = lambda: contact_sheet(comparison, pictures)
    found = {}
    with matplotlib.rc_context(STYLE):
        for name, make in figures.items():
            found[name] = make()
            if note:
                found[name].suptitle(note, fontsize=10, color=ORANGE, fontweight="bold")
    return found


def spread(comparison: Comparison) -> Figure:
    """Draw every member's test accuracy as a dot, with their mean, the vote and the member chosen on validation."""
    figure, axes = new_figure()
    values = np.array([100 * member.test.accuracy for member in comparison.members.each])
    summary, vote = comparison.members.test.accuracy, 100 * comparison.primary.scores.accuracy
    heights = stacked(values)
    mean, deviation = 100 * summary.mean, 100 * (summary.deviation or 0)
    axes.axvspan(mean - deviation, mean + deviation, color=BLUE, alpha=0.12, label="± 1 SD of seeds")
    axes.axvline(mean, color=BLUE, linestyle="--", label=f"mean seed {mean:.2f} %")
    axes.axvline(vote, color=ORANGE, linewidth=2, label=f"{comparison.plan.rule} vote {vote:.2f} %")
    axes.plot(values, heights, "o", color=BLUE, markersize=6, label="single seeds")
    chosen = comparison.seeds.index(comparison.members.chosen)
    axes.plot(
        values[chosen], heights[chosen], "s", markersize=11, markerfacecolor="none", color=GREEN,
        label=f"best on validation (seed {comparison.members.chosen})",
    )  # fmt: skip
    axes.set_ylim(0, max(4.0, heights.max() + 1))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("test accuracy (%)")
    axes.margins(x=0.08)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_xlim(percent_limits(*axes.get_xlim()))
    legend_below(figure, axes)
    return figure


def committees(comparison: Comparison) -> Figure:
    """Draw accuracy against the number of members in the vote, and the forecast for more."""
    figure, axes = new_figure()
    curve, ahead = comparison.curve, comparison.forecast
    sizes, accuracy = np.array(curve.sizes), 100 * np.array(curve.accuracy)
    over_committees = any(value is not None for value in curve.deviation)
    widths = curve.deviation if over_committees else curve.standard_error
    band = 100 * np.array([value or 0.0 for value in widths])
    text = "± 1 SD over committees" if over_committees else "± 1 SE over test samples"
    axes.fill_between(sizes, accuracy - band, accuracy + band, color=BLUE, alpha=0.15, label=text)
    axes.plot(sizes, accuracy, "o-", color=BLUE, markersize=4, label=f"{comparison.plan.rule} vote of k")
    ticks = [*curve.sizes]
    if ahead.accuracy is not None and ahead.intervals is not None and ahead.limit is not None:
        law = np.geomspace(sizes[-1], ahead.sizes[-1], 30)
        axes.plot(law, 100 * (ahead.limit - (ahead.slope or 0) / law), "--", color=ORANGE)
        axes.errorbar(
            ahead.sizes, [100 * value for value in ahead.accuracy], reach(ahead.accuracy, ahead.intervals), fmt="D",
            color=ORANGE,
            markersize=5, capsize=4, label=f"forecast, {100 * comparison.plan.level:g} % interval",
        )  # fmt: skip
        ticks += ahead.sizes
    axes.set_xscale("log", base=2)
    kept = [
        size
        for place, size in enumerate(ticks)
        if len(ticks) <= 8 or size in (1, 2, 3, 5, 10) or place >= len(ticks) - 3
    ]
    axes.set_xticks(kept, [str(size) for size in kept])
    axes.minorticks_off()
    axes.set_xlabel("members in the vote, k")
    axes.set_ylabel("test accuracy (%)")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_ylim(percent_limits(*axes.get_ylim()))
    legend_below(figure, axes)
    return figure


def reliability(comparison: Comparison) -> Figure:
    """Draw accuracy against confidence of the primary vote, before and after the temperature."""
    figure, axes = new_figure(height=4.2)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=":", label="as sure as right")
    found = comparison.calibration
    after = f"temperature {found.temperature:.3g}"
    for bins, label, colour, marker in (
        (found.reliability_before or (), f"{found.rule} vote", BLUE, "o"),
        (found.reliability_after or (), after, ORANGE, "D"),
    ):
        full = [each for each in bins if each.confidence is not None and each.accuracy is not None]
        x = [100 * (each.confidence or 0) for each in full]
        y = [100 * (each.accuracy or 0) for each in full]
        area = [8 + 120 * each.count / comparison.samples["test"] for each in full]
        # A few samples say little: no line leads through them.
        firm = [place for place, each in enumerate(full) if each.count >= 10]
        axes.plot([x[place] for place in firm], [y[place] for place in firm], color=colour, linewidth=1)
        axes.scatter(x, y, area, color=colour, marker=marker, label=label, alpha=0.8, clip_on=False)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_aspect("equal")
    axes.set_xlabel("mean top probability in the bin (%)")
    axes.set_ylabel("accuracy in the bin (%)")
    legend_below(figure, axes)
    return figure


def disagreement(comparison: Comparison) -> Figure:
    """Draw how many samples each pair of members decides differently."""
    figure, axes = new_figure(height=4.2)
    highest = max(0.1, 100 * float(comparison.diversity.disagreement_matrix.max()))
    image = axes.imshow(100 * comparison.diversity.disagreement_matrix, cmap="cividis", vmin=0, vmax=highest)
    figure.colorbar(image, ax=axes, label="decided differently (%)", shrink=0.8)
    step = max(1, math.ceil(len(comparison.seeds) / 12))
    places = range(0, len(comparison.seeds), step)
    names = [str(comparison.seeds[place]) for place in places]
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    axes.set_xlabel("seed")
    axes.set_ylabel("seed")
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure


def selective(comparison: Comparison) -> Figure:
    """Draw the error rate among the samples that the vote is surest of."""
    figure, axes = new_figure()
    for found in comparison.selective:
        colour, line = _LINES[found.measure]
        x, y = 100 * np.array(found.coverage), 100 * np.array(found.risk)
        axes.plot(x, y, line, color=colour, label=f"{MEASURES[found.measure]} (AURC {100 * found.area:.3f} %)")
    axes.set_xlim(0, 100)
    # Lines at 0 shall be seen, and few errors shall not look like many.
    highest = max(0.1, axes.get_ylim()[1])
    axes.set_ylim(-0.02 * highest, highest)
    axes.set_xlabel("samples answered, the surest first (%)")
    axes.set_ylabel("errors among them (%)")
    legend_below(figure, axes, columns=1)
    return figure
