"""How figures look: colours of Okabe and Ito, which colour-blind readers tell apart, and never colour alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from seedvote.stats import Interval

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
WIDTH, HEIGHT = 4.8, 3.4  # inches: text stays readable when the figure is as wide as a phone
STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "seedvote",  # the same figure is the same file
}


@dataclass(frozen=True)
class Drawing:
    """A figure as files; width and height in inches."""

    png: bytes
    svg: bytes
    width: float
    height: float


def render(figure: Figure) -> Drawing:
    """Turn a figure into files; the same figure gives the same bytes."""
    files = {}
    with matplotlib.rc_context(STYLE):
        # Laid out once: each further layout would start from the last and differ by a hair.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=200, metadata=metadata)
            files[kind] = file.getvalue()
    width, height = figure.get_size_inches()
    return Drawing(files["png"], files["svg"], float(width), float(height))


def short(name: str, longest: int = 14) -> str:
    """Return a name on one line, cut where it is too long."""
    # A lone dollar sign or a pair would start mathematics.
    text = " ".join(name.split()).replace("$", r"\$")
    return text if len(text) <= longest else text[: longest - 1] + "…"


def new_figure(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """Return a figure as wide as a phone, and its axes; height in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Put the legend where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9.5)


def reach(values: Sequence[float], intervals: Sequence[Interval]) -> NDArray[np.float64]:
    """How far each interval reaches below and above its value, ``[2, K]``, per cent; 0 where it is not defined."""
    pairs = zip(values, intervals, strict=True)
    ends = [(value, each.lower, each.upper) for value, each in pairs]
    reach = [
        [0 if low is None else 100 * (value - low), 0 if up is None else 100 * (up - value)] for value, low, up in ends
    ]
    return np.maximum(np.array(reach, dtype=np.float64).T, 0)


def percent_limits(low: float, high: float) -> tuple[float, float]:
    """Limits of an axis in per cent that show 0.2 points at least, and nothing far outside of 0 to 100."""
    missing = max(0.4 - (high - low), 0) / 2
    low, high = low - missing, high + missing
    edge = (high - low) / 20
    return max(low, -edge), min(high, 100 + edge)


def stacked(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
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
