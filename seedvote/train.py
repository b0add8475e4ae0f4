"""``python -m seedvote.train``: train the members that a run still lacks."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from seedvote.command import command_line, composed_again, run_command
from seedvote.config import chosen_seeds, with_variants
from seedvote.schemas import TrainConfig

# What imports torch is imported when it is needed, so that help and wrong command lines answer at once.
if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from seedvote.events import Engine, Event, Paused
    from seedvote.monitoring import Monitor
    from seedvote.store import Run, RunKeeper, RunRecord
    from seedvote.types import Data, Recipe

PAUSE = 0.2  # seconds between looks at what other processes do


def train(config: TrainConfig) -> int:
    """Train what is missing of the members that the config asks for; return the exit status."""
    import torch

    from seedvote.assembly import build_engine, build_recipe, load_data, preprocessing_for, run_name, run_record
    from seedvote.board import check_tensorboard
    from seedvote.config import location_of, recipe_of
    from seedvote.device import device_name, resolve_device
    from seedvote.matmul import choose_matmul
    from seedvote.monitoring import diagnosis, origin, watched
    from seedvote.provenance import versions
    from seedvote.store import RunKeeper, open_run

    if config.logger == "tensorboard":
        check_tensorboard()
    config = with_variants(config, functools.partial(composed_again, "train"))
    device = resolve_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    matmul = choose_matmul(config.matmul)
    engine = build_engine(config.engine)
    recipe_values = recipe_of(config)
    data = load_data(recipe_values, location_of(config))
    record = run_record(config, data, command_line("seedvote.train"))
    name = config.run or run_name(record)
    preprocessing = preprocessing_for(Path(config.checkpoints) / name, record, data)
    data = dataclasses.replace(data, preprocessing=preprocessing)
    recipe = build_recipe(recipe_values, data)
    run = open_run(Path(config.checkpoints), name, record, preprocessing)

    seeds = chosen_seeds(config)
    _deal_with_damage(run, seeds, config.on_damaged)
    _introduce(run, data, seeds, device_name(device))
    facts = {
        "device": device_name(device), "threads": torch.get_num_threads(), "matmul": matmul, "versions": versions(),
    }  # fmt: skip
    keeper = RunKeeper(run, facts, config.save_every, observes=config.logger != "none")
    missing = run.missing(seeds)
    report = {"diagnosis": diagnosis(recipe, data, missing or seeds, device)} if config.diagnose else {}
    print(*report.values(), sep="\n", end="\n" if report else "", flush=True)
    if not missing:
        return _conclude(run, seeds, config)
    beginning = origin(record) | _beginning(record, config, data) | report
    with watched(run, recipe, data, missing, beginning, config.logger) as monitor:
        stopped_by, paused = _train(run, engine, seeds, recipe, data, device, keeper, monitor)
        stored = f"{len(seeds) - len(run.missing(seeds))} of {len(seeds)} members are stored"
        monitor.log.write(f"end: {stored if stopped_by is None else f'interrupted by signal {stopped_by}; {stored}'}")
    if stopped_by is not None:
        _say_how_to_go_on(run, seeds, paused)
        return 128 + stopped_by
    return _conclude(run, seeds, config)


def _beginning(record: RunRecord, config: TrainConfig, data: Data) -> dict[str, str]:
    """Return what was asked for, by name, for the beginning of a log."""
    from seedvote.config import config_text

    place = "".join(f", {key} {value}" for key, value in record.location.items() if value is not None)
    counts = ", ".join(f"{count} {split}" for split, count in record.counts.items())
    return {
        "command": record.command,
        "data": f"{data.name}{place}: {counts}; fingerprint {record.fingerprint}",
        "config": config_text(config),
    }


def _deal_with_damage(run: Run, seeds: list[int], on_damaged: str) -> None:
    """Look at every stored member; set damaged ones aside, to be trained anew, if that is what is wanted.

    Raises:
        ValueError: there are damaged members, and nobody said what is to be done about them.
    """
    from seedvote.errors import listed
    from seedvote.store import check_member, set_damaged_aside

    missing = set(run.missing(seeds))
    damaged = {seed: check_member(run, seed) for seed in seeds if seed not in missing}
    damaged = {seed: problem for seed, problem in damaged.items() if problem is not None}
    if damaged and on_damaged == "error":
        raise ValueError(
            "\n".join(f"seed {seed}: {problem}" for seed, problem in damaged.items())
            + "; add on_damaged=retrain to train anew what is damaged, the damaged files being kept under another name"
        )
    for seed, problem in damaged.items():
        if kept := set_damaged_aside(run, seed):
            print(f"damaged    seed {seed} is trained anew: {problem}; kept as {listed(path.name for path in kept)}")


def _train(
    run: Run,
    engine: Engine,
    seeds: list[int],
    recipe: Recipe,
    data: Data,
    device: torch.device,
    keeper: RunKeeper,
    monitor: Monitor,
) -> tuple[int | None, list[Paused]]:
    """Train until each member is there or has failed, or a signal asks to stop; return it and whom it stopped."""
    from seedvote.events import Failure, Paused
    from seedvote.interruption import deferred, requested

    failed: set[int] = set()
    paused: list[Paused] = []
    with deferred():
        try:
            while missing := [seed for seed in run.missing(seeds) if seed not in failed]:
                events = engine.train(missing, recipe, data, device, keeper)
                for event in _shown(run, events, {seed: recipe.of(seed).epochs for seed in missing}):
                    monitor.event(event)
                    if isinstance(event, Failure) and not event.retried:
                        failed.add(event.seed)
                    elif isinstance(event, Paused):
                        paused.append(event)
                if requested() is None:
                    _wait_for_others(run, [seed for seed in run.missing(seeds) if seed not in failed])
                if requested() is not None:
                    break
        except KeyboardInterrupt:  # asked twice
            pass
        return requested(), paused


def _wait_for_others(run: Run, seeds: list[int]) -> None:
    """Wait while other processes hold all of some members, until one is done or let go of."""
    from seedvote.errors import listed
    from seedvote.interruption import requested
    from seedvote.store import is_claimed

    if seeds and all(is_claimed(run, seed) for seed in seeds):
        print(f"waiting    for another process, which trains seeds {listed(seeds)}", flush=True)
        while requested() is None and run.missing(seeds) == seeds and all(is_claimed(run, seed) for seed in seeds):
            time.sleep(PAUSE)


def _say_how_to_go_on(run: Run, seeds: list[int], paused: list[Paused]) -> None:
    left = run.missing(seeds)
    print(f"\ninterrupted: {len(seeds) - len(left)} of {len(seeds)} members are stored in {run.path}", file=sys.stderr)
    for member in sorted(paused, key=lambda member: member.seed):
        steps = f" and {member.steps} steps" if member.steps else ""
        print(f"  seed {member.seed} is saved after {member.epochs} epochs{steps}", file=sys.stderr)
    print(f"the same command goes on from there:\n  {run.record.command}", file=sys.stderr)


def _introduce(run: Run, data: Data, seeds: list[int], device: str) -> None:
    from seedvote.errors import listed
    from seedvote.report import SAMPLE, variant_lines

    missing = run.missing(seeds)
    print(f"run        {run.path}{'   ' + SAMPLE if data.sample else ''}")
    place = "; read from disk as they are needed" if data.scratch else ""
    print(
        f"data       {data.name}: {len(data.train)} train, {len(data.validation)} validation, "
        f"{len(data.test)} test, {len(data.classes)} classes{place}"
    )
    if not missing:
        print(f"members    all {len(seeds)} are there already: nothing to train")
    elif len(missing) < len(seeds):
        print(f"members    {len(seeds) - len(missing)} are there already; training seeds {listed(missing)}")
    else:
        print(f"members    training {len(seeds)}: seeds {listed(missing)}")
    for line in variant_lines(run.record.recipe, seeds):
        print(line)
    print(f"device     {device}", flush=True)


def _shown(run: Run, events: Iterator[Event], epochs: dict[int, int]) -> Iterator[Event]:
    """Pass on what happens, and show how far things are."""
    from seedvote.events import Failure, Note, Progress
    from seedvote.report import ProgressBars, member_line
    from seedvote.store import read_member
    from seedvote.types import TrainedMember

    bars = ProgressBars(epochs)
    try:
        for event in events:
            if isinstance(event, Progress):
                bars.epoch(event.seed, event.record)
            elif isinstance(event, Note):
                bars.note(event.text)
            elif isinstance(event, Failure):
                line = f"seed {event.seed}: failed, {event.reason}"
                if event.retried:
                    bars.note(f"{line}; trying it once more")
                else:
                    bars.member(event.seed, line)
            elif isinstance(event, TrainedMember):
                bars.member(event.seed, member_line(read_member(run, event.seed)))
            yield event
    finally:
        bars.close()


def _conclude(run: Run, seeds: list[int], config: TrainConfig) -> int:
    from seedvote.errors import listed
    from seedvote.report import SAMPLE, members_table
    from seedvote.store import read_member

    failed = run.missing(seeds)
    records = [read_member(run, seed) for seed in seeds if seed not in failed]
    print(f"\n{members_table(records)}")
    if run.record.sample:
        print(SAMPLE)
    place = [] if config.checkpoints == "checkpoints" else [f"checkpoints={config.checkpoints}"]
    print(f"\nnext: {shlex.join(['python', '-m', 'seedvote.predict', f'run={run.name}', *place])}")
    diverged = [record.seed for record in records if record.diverged]
    for what, bad in (("diverged", diverged), ("failed", failed)):
        if bad:
            print(f"warning: {len(bad)} of {len(seeds)} members {what} (seeds {listed(bad)})", file=sys.stderr)
    if failed:
        stored = f"{len(records)} of {len(seeds)} members are stored in {run.path}"
        print(f"{stored}; the same command goes on from there", file=sys.stderr)
    return 1 if diverged or failed else 0


def main() -> None:
    """Run the command."""
    run_command("train", TrainConfig, train)


if __name__ == "__main__":
    main()
