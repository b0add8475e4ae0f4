"""Comparisons as figures."""

from seedvote.figures.one_run import committees, disagreement, draw, reliability, selective, spread
from seedvote.figures.pictures import contact_sheet, pictures_to_show
from seedvote.figures.runs import draw_runs
from seedvote.figures.style import Drawing, render

__all__ = [
    "Drawing",
    "committees",
    "contact_sheet",
    "disagreement",
    "draw",
    "draw_runs",
    "pictures_to_show",
    "reliability",
    "render",
    "selective",
    "spread",
]
