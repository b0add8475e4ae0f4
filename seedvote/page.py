"""A comparison as one page that needs nothing but itself: no network, readable on a phone, in the dark, in print."""

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
from seedvote.verdict import Verdict, rival_sentences, runs_headline

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
    dropped: Mapping[str, str]
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
    count = len(comparison.seeds)
    shown = {name: _shown(drawing, *captions.describe(name, comparison)) for name, drawing in figures.items()}
    words = [verdict.fresh, verdict.chosen, verdict.how_many, verdict.cost]
    for name, rival in rivals:
        words += rival_sentences(comparison, rival, name)
    return _rendered(
        title=f"{origin.run}: what the vote of {count} is worth" if count > 1 else f"{origin.run}: one member",
        facts=_facts(origin, comparison),
        origin=origin,
        outcome=verdict.committee.split()[0],
        headline=verdict.headline,
        sentences=[text for text in words if text],
        sections=[_filled(section, shown) for section in sections.build(comparison, verdict, rivals)],
    )


def runs_page(
    runs: Sequence[tuple[str, Comparison]], corrected: Mapping[str, float], figure: Drawing, origin: Origin
) -> str:
    """Return the HTML of several runs on the same data.

    corrected: Holm's p-values of the gains, by run, where there is a vote. figure: of all of them.
    """
    shown = _shown(figure, *captions.describe_runs(runs))
    found = runs[0][1]
    return _rendered(
        title=f"{len(runs)} runs on {origin.data}: single seeds and their votes",
        facts=_facts(origin, found),
        origin=origin,
        outcome="none",
        headline=runs_headline(runs, corrected),
        sentences=[
            "p-values are Holm-corrected for all runs with a vote. Whether one run beats another is not tested here; "
            "compare run=... rival=... does that."
        ],
        sections=[_filled(each, {"runs": shown}) for each in sections.build_runs(runs, corrected)],
    )


def _facts(origin: Origin, comparison: Comparison) -> str:
    samples = comparison.samples
    return (
        f"{origin.data}: {samples['test']:,} test samples, {len(comparison.classes)} classes; members chosen and "
        f"temperatures fitted on {samples['validation']:,} validation samples."
    )


def _rendered(origin: Origin, **values: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("report.html").render(
        sample=origin.sample,
        dropped=list(origin.dropped.items()),
        words=captions.WORDS,
        origin=list(origin.facts.items()),
        **values,
    )


def _filled(section: Section, shown: Mapping[str, Shown]) -> dict[str, object]:
    figures = [shown[name] for name in section.figures if name in shown]
    return {"title": section.title, "sentences": section.sentences, "tables": section.tables, "figures": figures}


def _shown(drawing: Drawing, alt: str, caption: str) -> Shown:
    svg = base64.b64encode(drawing.svg).decode("ascii")
    return Shown(svg, alt, caption, round(96 * drawing.width), round(96 * drawing.height))
