"""A comparison as files: ``comparison.json``, figures as PNG and SVG, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seedvote.comparison import Rival, plain
from seedvote.figures import Drawing, draw, draw_runs, render
from seedvote.files import replaced, write_json
from seedvote.page import Origin, page, runs_page
from seedvote.provenance import versions
from seedvote.report import SAMPLE, variant_lines
from seedvote.study import Study
from seedvote.verdict import Verdict, rival_sentences, runs_headline, verdict

FORMAT = 1


def publish(study: Study, found: Verdict, rivals: Sequence[tuple[str, Rival]], directory: Path, command: str) -> None:
    """Write everything about one run. command: how this was asked for."""
    values = _values(study, found, command)
    values["rivals"] = [
        {"run": name, "sentences": list(rival_sentences(study.comparison, rival, name)), **plain(rival)}
        for name, rival in rivals
    ]
    write_json(directory / "comparison.json", values)
    _write_pictures(study, found, rivals, directory, command)


def publish_runs(studies: Sequence[Study], corrected: Mapping[str, float], directory: Path, command: str) -> None:
    """Write everything about several runs; corrected: Holm's p-values of the gains, by run, where there is a vote."""
    values = [
        {**_values(study, verdict(study.comparison, study.data.sample), command), "p_holm": corrected.get(study.name)}
        for study in studies
    ]
    headline = runs_headline([(study.name, study.comparison) for study in studies], corrected)
    write_json(directory / "comparison.json", {"format": FORMAT, "headline": headline, "runs": values})
    _write_runs_pictures(studies, corrected, directory, command)


def _values(study: Study, found: Verdict, command: str) -> dict[str, Any]:
    """Return what ``comparison.json`` says about one run; docs/comparison.md lists the keys."""
    record = study.run.record
    return {
        "format": FORMAT,
        "run": study.name,
        "data": study.data.name,
        "sample": study.data.sample,
        "fingerprint": record.fingerprint,
        "recipe_hash": record.recipe_hash,
        "command": command,
        "versions": versions(),
        "dropped": study.dropped,
        "verdict": plain(found),
        **plain(study.comparison),
    }


def _write_pictures(
    study: Study, found: Verdict, rivals: Sequence[tuple[str, Rival]], directory: Path, command: str
) -> None:
    sample = SAMPLE if study.data.sample else ""
    inputs = study.data.test.inputs.numpy()
    images = inputs.ndim == 4 and inputs.dtype == "uint8" and inputs.shape[1] in (1, 3)
    figures = draw(study.comparison, inputs if images else None, sample)
    drawings = {name: render(figure) for name, figure in figures.items()}
    record, plan = study.run.record, study.comparison.plan
    facts = {
        "run": study.name,
        "compared with": command,
        "trained with": record.command,
        "data fingerprint": record.fingerprint,
        "recipe hash": record.recipe_hash,
        "git commit": record.commit or "none",
        "primary vote": f"{plan.rule}, ties: {plan.tie}",
        "versions": _versions(),
    }
    variants = variant_lines(record.recipe, study.comparison.seeds)
    if variants:
        facts["variants"] = "; ".join(line.removeprefix("variant").strip() for line in variants)
    origin = Origin(study.name, study.data.name, sample, study.dropped, facts)
    _write(page(study.comparison, found, drawings, origin, rivals), drawings, directory)


def _write_runs_pictures(
    studies: Sequence[Study], corrected: Mapping[str, float], directory: Path, command: str
) -> None:
    first = studies[0]
    sample, plan = SAMPLE if first.data.sample else "", first.comparison.plan
    runs = [(study.name, study.comparison) for study in studies]
    drawing = render(draw_runs(runs, sample))
    facts = {
        "compared with": command,
        "data fingerprint": first.run.record.fingerprint,
        "primary vote": f"{plan.rule}, ties: {plan.tie}",
        "versions": _versions(),
    }
    facts |= {f"{study.name} trained with": study.run.record.command for study in studies}
    dropped = {f"{seed} of {study.name}": reason for study in studies for seed, reason in study.dropped.items()}
    origin = Origin(", ".join(name for name, _ in runs), first.data.name, sample, dropped, facts)
    _write(runs_page(runs, corrected, drawing, origin), {"runs": drawing}, directory)


def _versions() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items())


def _write(html: str, drawings: Mapping[str, Drawing], directory: Path) -> None:
    files = {"report.html": html.encode()}
    for name, drawing in drawings.items():
        files |= {f"{name}.png": drawing.png, f"{name}.svg": drawing.svg}
    for name, content in files.items():
        with replaced(directory / name) as temporary:
            temporary.write_bytes(content)
