"""``python -m seedvote.compare``: say what the vote of a run is worth, how sure that is, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seedvote.command import check_vote_names, command_line, run_command
from seedvote.schemas import CompareConfig

# What imports torch is imported when it is needed, so that help and wrong command lines answer at once.
if TYPE_CHECKING:
    from seedvote.store import Run
    from seedvote.study import Settings, Study


def compare(config: CompareConfig) -> int:
    """Compare the members of a run, or of several, with their vote; return the exit status."""
    check_vote_names(config.vote, config.tie, config.on_bad_member)
    import torch

    from seedvote.comparison import Plan
    from seedvote.config_checks import rival_names
    from seedvote.matmul import choose_matmul
    from seedvote.store import find_run
    from seedvote.study import Settings

    if config.threads:
        torch.set_num_threads(config.threads)
    choose_matmul(config.matmul)
    checkpoints = Path(config.checkpoints)
    plan = Plan(config.vote, config.tie, config.level, config.seed)
    settings = Settings(
        plan, config.device, config.on_bad_member, config.trust, vars(config.data), config.seeds, config.head
    )
    if config.runs is not None:
        runs = [find_run(checkpoints, name) for name in config.runs]
        return _compare_runs(runs, settings, Path(config.output or checkpoints / "report"))
    run = find_run(checkpoints, config.run)
    rivals = _rivals(run, [find_run(checkpoints, name) for name in rival_names(config.rival)])
    return _compare_run(run, rivals, settings, config.output)


def _rivals(run: Run, rivals: Sequence[Run]) -> Sequence[Run]:
    for rival in rivals:
        if rival.path == run.path:
            raise ValueError(f"rival={rival.name} is run {run.name!r} itself: name another run on the same data")
    _check_each_once("rival", rivals)
    _check_same_data(run, rivals, "rival ")
    return rivals


def _check_each_once(key: str, runs: Sequence[Run]) -> None:
    twice = {run.name for run in runs if sum(other.path == run.path for other in runs) > 1}
    if twice:
        raise ValueError(f"{key}= names {', '.join(sorted(twice))} more than once: name each run once")


def _check_same_data(run: Run, others: Sequence[Run], what: str) -> None:
    for other in others:
        if other.record.fingerprint != run.record.fingerprint:
            raise ValueError(
                f"{what}{other.name!r} was trained and split on other data than run {run.name!r} (their data "
                "fingerprints differ), so that their test scores cannot be set side by side: train it with the same "
                "data, data.limit and split_seed"
            )


def _compare_run(run: Run, rivals: Sequence[Run], settings: Settings, output: str | None) -> int:
    import dataclasses

    from seedvote.comparison import against
    from seedvote.files import refuse_way_out
    from seedvote.publication import publish
    from seedvote.report import SAMPLE
    from seedvote.study import study
    from seedvote.summary import summary
    from seedvote.verdict import verdict

    own = study([run], settings)
    other = study(rivals, dataclasses.replace(settings, seeds=None)) if rivals else None
    found = verdict(own.comparison, own.data.sample)
    named = [(other.name, against(own.comparison, other.comparison, other.members))] if other else []
    directory = Path(output) if output is not None else run.path / "report"
    if output is None:
        refuse_way_out(directory, run.path)
    directory.mkdir(parents=True, exist_ok=True)
    publish(own, found, named, directory, command_line("seedvote.compare"))
    # Printed last: whoever stops reading early still finds everything on the disk.
    _introduce(own)
    print(summary(own.comparison, found, named))
    if own.data.sample:
        print(SAMPLE)
    print(f"\nwritten    {directory}: report.html, comparison.json, figures as PNG and SVG")
    return 1 if own.dropped or (other and other.dropped) else 0


def _compare_runs(runs: Sequence[Run], settings: Settings, directory: Path) -> int:
    from seedvote.publication import publish_runs
    from seedvote.report import SAMPLE
    from seedvote.stats import holm
    from seedvote.study import study
    from seedvote.summary import runs_summary
    from seedvote.verdict import runs_headline

    _check_each_once("runs", runs)
    _check_same_data(runs[0], runs[1:], "run ")
    studies = [study([run], settings) for run in runs]
    voting = [each for each in studies if len(each.comparison.seeds) > 1]
    p_values = holm([each.comparison.primary.gain.p_value for each in voting])
    corrected = {each.name: p_value for each, p_value in zip(voting, p_values, strict=True)}
    directory.mkdir(parents=True, exist_ok=True)
    publish_runs(studies, corrected, directory, command_line("seedvote.compare"))
    named = [(each.name, each.comparison) for each in studies]
    print(runs_summary(runs_headline(named, corrected), named, corrected))
    if studies[0].data.sample:
        print(SAMPLE)
    for each in studies:
        for seed, reason in each.dropped.items():
            print(f"{each.name}: dropped seed {seed}: {reason}")
    print(f"\nwritten    {directory}: report.html, comparison.json, runs.png, runs.svg")
    return 1 if any(each.dropped for each in studies) else 0


def _introduce(study: Study) -> None:
    from seedvote.errors import listed
    from seedvote.report import SAMPLE, variant_lines

    run, data = study.run, study.data
    print(f"run        {run.path}{'   ' + SAMPLE if data.sample else ''}")
    print(f"members    {len(study.comparison.seeds)}: seeds {listed(study.comparison.seeds, limit=16)}")
    for line in variant_lines(run.record.recipe, study.comparison.seeds):
        print(line)
    for seed, reason in study.dropped.items():
        print(f"dropped    seed {seed}: {reason}")
    print(
        f"data       {data.name}: chosen and fitted on {len(data.validation):,} validation samples, scored on "
        f"{len(data.test):,} test samples\n"
    )


def main() -> None:
    """Run the command."""
    run_command("compare", CompareConfig, compare)


if __name__ == "__main__":
    main()
