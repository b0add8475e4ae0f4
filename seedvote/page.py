"""A comparison as one page that needs nothing but itself: no network, readable on a phone, in the dark and in print."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seedvote import captions, sections
from seedvote.comparison import Comparison, Rival
from seedvote.figures import Drawing
from seedvote.sections import Section
from seedvote.verdict import Verdict, rival_sentences

_TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class Origin:
    """What the page says about where its numbers come from.

    run, data: their names. sample: the words for a sample run, else empty. dropped: seeds left out, with reasons.
    facts: anything else, such as fingerprint, command and versions.
    """

    run: str
    data: str
    sample: str
    dropped: Mapping[int, str]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Shown:
    """A figure as the page shows it: SVG in base64, its text for who does not see it, and its size in pixels."""

    svg: str
    alt: str
    caption: str
    width: int
    height: int


def page(
    comparison: Comparison,
    verdict: Verdict,
    figures: Mapping[str, Drawing],
    origin: Origin,
    rivals: Sequence[tuple[str, Rival]] = (),
) -> str:
    """Return the HTML of a comparison with its figures."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    words = [verdict.fresh, verdict.chosen, verdict.how_many, verdict.cost]
    for name, rival in rivals:
        words += rival_sentences(comparison, rival, name)
    samples = comparison.samples
    return environment.get_template("report.html").render(
        title=f"{origin.run}: what the vote of {len(comparison.seeds)} is worth",
        facts=f"{origin.data}: {samples['test']:,} test samples, {len(comparison.classes)} classes; members chosen and "
        f"temperatures fitted on {samples['validation']:,} validation samples.",
        sample=origin.sample,
        outcome=verdict.committee.split()[0],
        headline=verdict.headline,
        sentences=[text for text in words if text],
        dropped=sorted(origin.dropped.items()),
        sections=[_filled(section, comparison, figures) for section in sections.build(comparison, verdict, rivals)],
        words=captions.WORDS,
        origin=list(origin.facts.items()),
    )


def _filled(section: Section, comparison: Comparison, figures: Mapping[str, Drawing]) -> dict[str, object]:
    shown = [_shown(figures[name], *captions.describe(name, comparison)) for name in section.figures if name in figures]
    return {"title": section.title, "sentences": section.sentences, "tables": section.tables, "figures": shown}


def _shown(drawing: Drawing, alt: str, caption: str) -> Shown:
    svg = base64.b64encode(drawing.svg).decode("ascii")
    return Shown(svg, alt, caption, round(96 * drawing.width), round(96 * drawing.height))
