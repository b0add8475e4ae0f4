"""``python -m seedvote.train``: train the members that a run still lacks."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedvote.command import INTERRUPTED, command_line, run_command
from seedvote.config import TrainConfig, chosen_seeds, train_config

# What imports torch is imported when it is needed, so that help and wrong command lines answer at once.
if TYPE_CHECKING:
    from collections.abc import Iterator

    from seedvote.store import Run
    from seedvote.types import Data, Failure, Note, Progress, TrainedMember


def train(config: TrainConfig) -> int:
    """Train what is missing of the members that the config asks for; return the exit status."""
    import torch

    from seedvote.assembly import build_engine, build_recipe, load_data, run_name, run_record
    from seedvote.config import location_of, recipe_of
    from seedvote.device import device_name, resolve_device
    from seedvote.store import open_run

    device = resolve_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    engine = build_engine(config.engine)
    recipe_values = recipe_of(config)
    data = load_data(recipe_values, location_of(config))
    recipe = build_recipe(recipe_values, data)
    record = run_record(config, data, command_line("seedvote.train"))
    run = open_run(Path(config.checkpoints), config.run or run_name(record), record)

    seeds = chosen_seeds(config)
    missing = run.missing(seeds)
    _introduce(run, data, seeds, missing, device_name(device))
    facts = {"device": device_name(device), "threads": torch.get_num_threads()}
    try:
        _store(run, engine.train(missing, recipe, data, device), len(missing), config.epochs, facts)
    except KeyboardInterrupt:
        left = run.missing(seeds)
        print(
            f"\ninterrupted: {len(seeds) - len(left)} of {len(seeds)} members are stored in {run.path}; "
            f"the same command trains the rest:\n  {record.command}",
            file=sys.stderr,
        )
        return INTERRUPTED
    return _conclude(run, seeds, config)


def _introduce(run: Run, data: Data, seeds: list[int], missing: list[int], device: str) -> None:
    from seedvote.errors import listed
    from seedvote.report import SAMPLE

    print(f"run        {run.path}{'   ' + SAMPLE if data.sample else ''}")
    print(
        f"data       {data.name}: {len(data.train)} train, {len(data.validation)} validation, "
        f"{len(data.test)} test, {len(data.classes)} classes"
    )
    if not missing:
        print(f"members    all {len(seeds)} are there already: nothing to train")
    elif len(missing) < len(seeds):
        print(f"members    {len(seeds) - len(missing)} are there already; training seeds {listed(missing)}")
    else:
        print(f"members    training {len(seeds)}: seeds {listed(missing)}")
    print(f"device     {device}", flush=True)


def _store(
    run: Run,
    events: Iterator[Progress | TrainedMember | Failure | Note],
    members: int,
    epochs: int,
    facts: dict[str, Any],
) -> None:
    """Write each member as soon as it is trained, and show how far things are."""
    from seedvote.assembly import now, versions
    from seedvote.report import ProgressBars, member_line
    from seedvote.store import write_member
    from seedvote.types import Failure, Note, Progress

    facts = {**facts, "versions": versions()}
    bars = ProgressBars(members, epochs)
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
            else:
                record = write_member(run, event, {**facts, "finished": now()})
                bars.member(event.seed, member_line(record))
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
    return 1 if diverged or failed else 0


def main() -> None:
    """Run the command."""
    run_command("train", TrainConfig, train_config, train)


if __name__ == "__main__":
    main()
