"""``python -m seedvote.compare``: say what the vote of a run is worth, how sure that is, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedvote.command import command_line, run_command
from seedvote.schemas import CompareConfig

# What imports torch is imported when it is needed, so that help and wrong command lines answer at once.
if TYPE_CHECKING:
    from seedvote.comparison import Comparison, Rival
    from seedvote.inference import Ensemble
    from seedvote.store import Run
    from seedvote.types import Data
    from seedvote.verdict import Verdict

FORMAT = 1


@dataclass(frozen=True)
class Study:
    """One run with its data, the members that could vote, and their comparison."""

    ensemble: Ensemble
    data: Data
    comparison: Comparison

    @property
    def run(self) -> Run:
        """The run."""
        return self.ensemble.run


def compare(config: CompareConfig) -> int:
    """Compare the members of a run, or of several, with their vote; return the exit status."""
    _check_names(config)
    import torch

    from seedvote.store import find_run

    if config.threads:
        torch.set_num_threads(config.threads)
    checkpoints = Path(config.checkpoints)
    if config.runs is not None:
        return _compare_runs([find_run(checkpoints, name) for name in config.runs], config)
    run = find_run(checkpoints, config.run)
    rival = _rival(run, checkpoints, config.rival)
    study = _study(run, config)
    return _report(study, _study(rival, config, all_seeds=True) if rival else None, config)


def _check_names(config: CompareConfig) -> None:
    from seedvote import voting
    from seedvote.comparison.rules import PRIMARY_RULES
    from seedvote.errors import unknown

    names = (
        ("vote", config.vote, PRIMARY_RULES),
        ("tie", config.tie, voting.TIES),
        ("on_bad_member", config.on_bad_member, voting.ON_BAD_MEMBER),
    )
    problems = [unknown(key, value, known) for key, value, known in names if value not in known]
    if config.vote in voting.RULES and config.vote not in PRIMARY_RULES:
        problems[0] = f"vote={config.vote} cannot be the primary vote: name soft or majority"
    if problems:
        raise ValueError("\n".join(problems))


def _rival(run: Run, checkpoints: Path, name: str | None) -> Run | None:
    from seedvote.store import find_run

    if name is None:
        return None
    rival = find_run(checkpoints, name)
    if rival.path == run.path:
        raise ValueError(f"rival={name} is run {run.name!r} itself: name another run on the same data")
    if rival.record.fingerprint != run.record.fingerprint:
        raise ValueError(
            f"rival {rival.name!r} was trained and split on other data than run {run.name!r} (their data fingerprints "
            "differ), so that their test scores cannot be set side by side: train it with the same data and split_seed"
        )
    return rival


def _study(run: Run, config: CompareConfig, all_seeds: bool = False) -> Study:
    """Get the logits of validation and test, from the cache where it has them, and compare."""
    from seedvote import voting
    from seedvote.assembly import stored_data
    from seedvote.comparison import Plan
    from seedvote.comparison import compare as compare_logits
    from seedvote.inference import load
    from seedvote.logits import split_logits

    seeds = None if all_seeds else config.seeds
    ensemble = load(run.path, device=config.device, on_bad_member=config.on_bad_member, trust=config.trust, seeds=seeds)
    data = stored_data(run, vars(config.data), config.trust)
    if config.head == "knn":
        ensemble = ensemble.with_neighbors(data.train, data.validation)
    validation = split_logits(ensemble, data.validation, "validation")
    test = split_logits(ensemble, data.test, "test")
    usable = sorted(
        set.intersection(
            *(
                set(
                    voting.vote(
                        part.logits, "majority", seeds=ensemble.seeds, on_bad_member=config.on_bad_member
                    ).members
                )
                for part in (validation, test)
            )
        )
    )
    if not usable:
        raise ValueError(
            f"run {run.name!r} has no member whose logits are finite on validation and test: train it again"
        )
    seconds = [test.seconds[place] for place in usable]
    devices = [test.devices[place] for place in usable]
    if len(usable) < len(ensemble.seeds):
        ensemble = ensemble.only(usable, "its logits are not finite")
    comparison = compare_logits(
        (validation.logits[usable], data.validation.labels.numpy()),
        (test.logits[usable], data.test.labels.numpy()),
        seeds=ensemble.seeds,
        classes=ensemble.classes,
        cost=_cost(ensemble, seconds, devices, len(data.test)),
        plan=Plan(config.vote, config.tie, config.level, config.seed),
    )
    return Study(ensemble, data, comparison)


def _cost(ensemble: Ensemble, seconds: list[float], devices: list[str], samples: int) -> Any:
    from seedvote.comparison import Cost
    from seedvote.stats import summarize

    training = [member.seconds for member in ensemble.members]
    return Cost(
        summarize(training),
        sum(training),
        summarize(seconds),
        sum(seconds),
        samples,
        tuple(sorted({member.engine for member in ensemble.members})),
        tuple(sorted({member.device for member in ensemble.members})),
        tuple(sorted(set(devices))),
    )


def _report(study: Study, other: Study | None, config: CompareConfig) -> int:
    from seedvote.comparison import against
    from seedvote.files import refuse_way_out, write_json
    from seedvote.report import SAMPLE
    from seedvote.summary import summary
    from seedvote.verdict import rival_sentences, verdict

    found = verdict(study.comparison, study.data.sample)
    rivals = [(other.run.name, against(study.comparison, other.comparison))] if other else []
    directory = Path(config.output) if config.output is not None else study.run.path / "report"
    if config.output is None:
        refuse_way_out(directory, study.run.path)
    directory.mkdir(parents=True, exist_ok=True)
    values = _values(study, found)
    values["rivals"] = [
        {"run": name, "sentences": list(rival_sentences(study.comparison, rival, name)), **_plain(rival)}
        for name, rival in rivals
    ]
    write_json(directory / "comparison.json", values)
    _write_pictures(study, found, rivals, directory)
    # Printed last: whoever stops reading early still finds everything on the disk.
    _introduce(study)
    print(summary(study.comparison, found, rivals))
    if study.data.sample:
        print(SAMPLE)
    print(f"\nwritten    {directory}: report.html, comparison.json, figures as PNG and SVG")
    dropped = bool(study.ensemble.dropped) or bool(other and other.ensemble.dropped)
    return 1 if dropped else 0


def _compare_runs(runs: list[Run], config: CompareConfig) -> int:
    from seedvote.files import write_json
    from seedvote.report import SAMPLE
    from seedvote.stats import holm
    from seedvote.summary import runs_table
    from seedvote.verdict import verdict

    twice = {run.name for run in runs if sum(other.path == run.path for other in runs) > 1}
    if twice:
        raise ValueError(f"runs= names {', '.join(sorted(twice))} more than once: name each run once")
    studies = [_study(run, config) for run in runs]
    several = [study for study in studies if len(study.ensemble.seeds) > 1]
    p_values = holm([study.comparison.primary.gain.p_value for study in several])
    corrected = {study.run.name: p_value for study, p_value in zip(several, p_values, strict=True)}
    print(runs_table([(study.run.name, study.comparison) for study in studies], corrected))
    for study in studies:
        if study.data.sample:
            print(f"{study.run.name}: {SAMPLE}")
        for seed, reason in study.ensemble.dropped.items():
            print(f"{study.run.name}: dropped seed {seed}: {reason}")
    directory = Path(config.output) if config.output is not None else Path(config.checkpoints) / "report"
    directory.mkdir(parents=True, exist_ok=True)
    values = [
        {**_values(study, verdict(study.comparison, study.data.sample)), "p_holm": corrected.get(study.run.name)}
        for study in studies
    ]
    write_json(directory / "comparison.json", {"format": FORMAT, "runs": values})
    print(f"\nwritten    {directory / 'comparison.json'}")
    return 1 if any(study.ensemble.dropped for study in studies) else 0


def _introduce(study: Study) -> None:
    from seedvote.errors import listed
    from seedvote.report import SAMPLE, variant_lines

    run, data = study.run, study.data
    print(f"run        {run.path}{'   ' + SAMPLE if data.sample else ''}")
    print(f"members    {len(study.ensemble.seeds)}: seeds {listed(study.ensemble.seeds, limit=16)}")
    for line in variant_lines(run.record.recipe, study.ensemble.seeds):
        print(line)
    for seed, reason in study.ensemble.dropped.items():
        print(f"dropped    seed {seed}: {reason}")
    print(
        f"data       {data.name}: chosen and fitted on {len(data.validation):,} validation samples, scored on "
        f"{len(data.test):,} test samples\n"
    )


def _values(study: Study, found: Verdict) -> dict[str, Any]:
    """Return what ``comparison.json`` says about one run; docs/comparison.md lists the keys."""
    from seedvote.assembly import versions

    record = study.run.record
    return {
        "format": FORMAT,
        "run": study.run.name,
        "data": study.data.name,
        "sample": study.data.sample,
        "fingerprint": record.fingerprint,
        "recipe_hash": record.recipe_hash,
        "command": command_line("seedvote.compare"),
        "versions": versions(),
        "dropped": {str(seed): reason for seed, reason in study.ensemble.dropped.items()},
        "verdict": _plain(found),
        **_plain(study.comparison),
    }


def _plain(value: Any) -> Any:
    from seedvote.comparison import plain

    return plain(value)


def _write_pictures(study: Study, found: Verdict, rivals: list[tuple[str, Rival]], directory: Path) -> None:
    """Write the figures as PNG and SVG, and the page."""
    from seedvote.assembly import versions
    from seedvote.figures import draw, render
    from seedvote.files import replaced
    from seedvote.page import Origin, page
    from seedvote.report import SAMPLE

    sample = SAMPLE if study.data.sample else ""
    inputs = study.data.test.inputs.numpy()
    images = inputs.ndim == 4 and inputs.dtype == "uint8" and inputs.shape[1] in (1, 3)
    figures = draw(study.comparison, inputs if images else None, sample)
    drawings = {name: render(figure) for name, figure in figures.items()}
    record = study.run.record
    facts = {
        "run": study.run.name,
        "compared with": command_line("seedvote.compare"),
        "trained with": record.command,
        "data fingerprint": record.fingerprint,
        "recipe hash": record.recipe_hash,
        "git commit": record.commit or "none",
        "primary vote": f"{study.comparison.plan.rule}, ties: {study.comparison.plan.tie}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    origin = Origin(study.run.name, study.data.name, sample, study.ensemble.dropped, facts)
    files = {"report.html": page(study.comparison, found, drawings, origin, rivals).encode()}
    for name, drawing in drawings.items():
        files |= {f"{name}.png": drawing.png, f"{name}.svg": drawing.svg}
    for name, content in files.items():
        with replaced(directory / name) as temporary:
            temporary.write_bytes(content)


def main() -> None:
    """Run the command."""
    run_command("compare", CompareConfig, compare)


if __name__ == "__main__":
    main()
