"""A comparison as figures: colours of Okabe and Ito, which colour-blind readers tell apart, and never colour alone."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from seedvote.comparison import Comparison
from seedvote.stats import Interval

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
WIDTH, HEIGHT = 4.8, 3.4  # inches: text stays readable when the figure is as wide as a phone
PICTURES = 6  # of each kind on the contact sheet
LISTED_SEEDS = 16  # with more members the contact sheet only counts their votes
_STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "seedvote",  # the same figure is the same file
}
_MEASURES = {
    "max_probability": ("top probability", BLUE, "-"),
    "negative_entropy": ("entropy", ORANGE, "--"),
    "negative_mutual_information": ("mutual information", GREEN, "-."),
    "agreement": ("vote agreement", PURPLE, ":"),
}

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawing:
    """A figure as files; width and height in inches."""

    png: bytes
    svg: bytes
    width: float
    height: float


def draw(comparison: Comparison, pictures: Pictures | None = None, note: str = "") -> dict[str, Figure]:
    """Return the figures of a comparison by name, in the order in which to show them.

    pictures: ``[S, channels, height, width]``, the test inputs, where they are images with 1 or 3 channels.
    note: written above every figure. Figures that would be empty are left out.
    """
    several = len(comparison.seeds) > 1
    figures: dict[str, Callable[[], Figure]] = {"reliability": lambda: reliability(comparison)}
    if several:
        figures = {
            "spread": lambda: spread(comparison),
            "committees": lambda: committees(comparison),
            **figures,
            "disagreement": lambda: disagreement(comparison),
        }
    figures["selective"] = lambda: selective(comparison)
    if several and pictures is not None and (shown := pictures_to_show(comparison))[0] + shown[1]:
        figures["pictures"] = lambda: contact_sheet(comparison, pictures)
    found = {}
    with matplotlib.rc_context(_STYLE):
        for name, make in figures.items():
            found[name] = make()
            if note:
                found[name].suptitle(note, fontsize=10, color=ORANGE, fontweight="bold")
    return found


def render(figure: Figure) -> Drawing:
    """Turn a figure into files; the same figure gives the same bytes."""
    files = {}
    with matplotlib.rc_context(_STYLE):
        # Laid out once: each further layout would start from the last and differ by a hair.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=200, metadata=metadata)
            files[kind] = file.getvalue()
    width, height = figure.get_size_inches()
    return Drawing(files["png"], files["svg"], float(width), float(height))


def spread(comparison: Comparison) -> Figure:
    """Draw every member's test accuracy as a dot, with their mean, the vote and the member chosen on validation."""
    figure, axes = _figure()
    values = np.array([100 * member.test.accuracy for member in comparison.members.each])
    summary, vote = comparison.members.test.accuracy, 100 * comparison.primary.scores.accuracy
    heights = _stacked(values)
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
    _legend_below(figure, axes)
    return figure


def committees(comparison: Comparison) -> Figure:
    """Draw accuracy against the number of members in the vote, and the forecast for more."""
    figure, axes = _figure()
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
            ahead.sizes, [100 * value for value in ahead.accuracy], _reach(ahead.accuracy, ahead.intervals), fmt="D",
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
    _legend_below(figure, axes)
    return figure


def reliability(comparison: Comparison) -> Figure:
    """Draw accuracy against confidence of the soft vote, before and after the temperature."""
    figure, axes = _figure(height=4.2)
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=":", label="as sure as right")
    found = comparison.calibration
    after = f"temperature {found.temperature:.3g}"
    for bins, label, colour, marker in (
        (found.reliability_before, "as voted", BLUE, "o"),
        (found.reliability_after, after, ORANGE, "D"),
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
    _legend_below(figure, axes)
    return figure


def disagreement(comparison: Comparison) -> Figure:
    """Draw how many samples each pair of members decides differently."""
    figure, axes = _figure(height=4.2)
    image = axes.imshow(100 * comparison.diversity.disagreement_matrix, cmap="cividis", vmin=0)
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
    figure, axes = _figure()
    for found in comparison.selective:
        if len(comparison.seeds) == 1 and found.measure in ("negative_mutual_information", "agreement"):
            continue
        name, colour, line = _MEASURES[found.measure]
        x, y = 100 * np.array(found.coverage), 100 * np.array(found.risk)
        axes.plot(x, y, line, color=colour, label=f"{name} (AURC {100 * found.area:.3f} %)")
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("samples answered, the surest first (%)")
    axes.set_ylabel("errors among them (%)")
    _legend_below(figure, axes, columns=1)
    return figure


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
    decisions, names = comparison.decisions, [_short(name) for name in comparison.classes]
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


def _short(name: str, longest: int = 14) -> str:
    # A lone dollar sign or a pair would start mathematics.
    text = " ".join(name.split()).replace("$", r"\$")
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9.5)


def _reach(values: Sequence[float], intervals: Sequence[Interval]) -> NDArray[np.float64]:
    """How far each interval reaches below and above its value, ``[2, K]``, per cent; 0 where it is not defined."""
    pairs = zip(values, intervals, strict=True)
    ends = [(value, each.lower, each.upper) for value, each in pairs]
    reach = [
        [0 if low is None else 100 * (value - low), 0 if up is None else 100 * (up - value)] for value, low, up in ends
    ]
    return np.maximum(np.array(reach, dtype=np.float64).T, 0)


def _stacked(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Heights at which dots of about the same value do not hide each other."""
    numbers = np.asarray(values)
    width = max(float(np.ptp(numbers)) / 30, 1e-9)
    heights = np.zeros(len(numbers))
    filled: dict[int, int] = {}
    for place in np.argsort(numbers, kind="stable"):
        column = int((numbers[place] - numbers.min()) / width)
        filled[column] = filled.get(column, 0) + 1
        heights[place] = filled[column]
    return heights
