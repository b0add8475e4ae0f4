"""Sections and tables of a page, and how their cells are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from seedvote.comparison import RuleScores
from seedvote.report import percent
from seedvote.stats import Interval, Scores, Summary
from seedvote.verdict import p_text, signed

LONGEST_TABLE = 20
UNDEFINED = "not defined"
NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table: caption, header, rows of text; strong: positions of the rows that matter most."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; figures are named as ``seedvote.figures.draw`` names them."""

    title: str
    sentences: Sequence[str] = ()
    figures: Sequence[str] = ()
    tables: Sequence[Table] = field(default_factory=list)


def score_cells(scores: Scores | RuleScores) -> list[str]:
    """Accuracy, and three scores of probabilities where there are any."""
    values = (scores.negative_log_likelihood, scores.brier, scores.expected_calibration_error)
    return [percent(scores.accuracy), *(NONE if value is None else f"{value:.4f}" for value in values)]


def score_row(name: str, scores: Scores | RuleScores, interval: Interval) -> list[str]:
    """A name, accuracy with its interval, and the other scores."""
    accuracy, *others = score_cells(scores)
    return [name, accuracy, percents_cell(interval), *others]


def summary_cells(summary: Summary, factor: float) -> list[str]:
    """Mean, deviation, minimum and maximum; factor 100 for per cent."""
    values = (summary.mean, summary.deviation, summary.minimum, summary.maximum)
    digits = 2 if factor == 100 else 4
    return [NONE if value is None else f"{factor * value:.{digits}f}" for value in values]


def p_cell(p_value: float) -> str:
    """A p-value without its letter."""
    return p_text(p_value).removeprefix("p").removeprefix(" = ").strip()


def points_cell(interval: Interval) -> str:
    """The ends of an interval of a difference, in points."""
    if interval.lower is None or interval.upper is None:
        return UNDEFINED
    return f"{signed(interval.lower)} to {signed(interval.upper)}"


def percents_cell(interval: Interval) -> str:
    """The ends of an interval of an accuracy, in per cent."""
    if interval.lower is None or interval.upper is None:
        return UNDEFINED
    return f"{100 * interval.lower:.2f} to {100 * interval.upper:.2f}"
