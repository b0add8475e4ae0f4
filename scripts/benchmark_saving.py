"""Time what saving costs: one LeNet on MNIST, trained with and without being kept, interleaved in one process.

    python scripts/benchmark_saving.py --root DIR --limit 16384 --epochs 3 --repeats 7

*kept*: as `python -m seedvote.train` does it, with its locks, a save whenever one is due and the member stored at the
end. *not kept*: the same training, nothing written. Prints the medians, the ratio within each pair, and how long the
saves themselves took.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from engine_benchmark.cases import changed, prepared, write_arrays
from seedvote.engines.sequential import Sequential
from seedvote.store import RunKeeper, RunRecord, open_run, recipe_hash
from seedvote.training import UNKEPT
from seedvote.types import Snapshot, TrainedMember

CASES = {"mlp": "mlp-64-adamw", "lenet": "lenet-64-adamw", "resnet": "resnet-128-adamw"}


class Timed(RunKeeper):
    """Keeps a run and adds up how long saving takes."""

    saves = 0
    seconds = 0.0

    def save(self, snapshots: dict[int, Snapshot]) -> None:
        """Save and note the time."""
        started = time.perf_counter()
        super().save(snapshots)
        self.seconds += time.perf_counter() - started
        self.saves += 1

    def finish(self, member: TrainedMember) -> None:
        """Store and note the time."""
        started = time.perf_counter()
        super().finish(member)
        self.seconds += time.perf_counter() - started


def main() -> None:
    """Train both ways in turns and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CASES, default="lenet")
    parser.add_argument("--root", type=Path, default=Path("data"), help="where MNIST or CIFAR-10 lies")
    parser.add_argument("--limit", type=int, default=None, help="training samples")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--save-every", type=float, default=60.0, help="seconds between saves inside an epoch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    case = changed(CASES[options.model], options.epochs, options.limit)
    with tempfile.TemporaryDirectory() as place:
        recipe, data = prepared(case, write_arrays(case, options.root, Path(place)))
    train(recipe, data, UNKEPT)  # what is only slow the first time shall not count
    pairs, shares, saves, each = [], [], [], []
    with tempfile.TemporaryDirectory() as place:
        for number in range(options.repeats):
            run = open_run(Path(place), f"run-{number}", record())
            keeper = Timed(run, {"device": "cpu", "threads": 1, "versions": {}}, options.save_every)
            # Whichever comes first may find the machine otherwise, so they take turns.
            if number % 2:
                kept = train(recipe, data, keeper)
                pairs.append((kept, train(recipe, data, UNKEPT)))
            else:
                plain = train(recipe, data, UNKEPT)
                pairs.append((train(recipe, data, keeper), plain))
            shares.append(keeper.seconds / pairs[-1][0])
            saves.append(keeper.saves)
            each.append(keeper.seconds / (keeper.saves + 1))
    print(f"{options.model}, {len(data.train)} samples, {options.epochs} epochs, {options.repeats} repeats; "
          f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}")  # fmt: skip
    for name, position in (("kept", 0), ("not kept", 1)):
        print(f"{name}: {spread([pair[position] for pair in pairs], '{:.2f}')} s")
    print(f"ratio: {spread([kept / plain for kept, plain in pairs], '{:.4f}')}")
    print(f"saves in a training: {spread(saves, '{:.0f}')}; one takes {spread([1000 * t for t in each], '{:.1f}')} ms")
    print(f"share of the time in which files are written: {spread([100 * share for share in shares], '{:.2f}')} %")


def train(recipe: Any, data: Any, keeper: Any) -> float:
    """Train one member and return the seconds."""
    started = time.perf_counter()
    events = list(Sequential().train([0], recipe, data, torch.device("cpu"), keeper))
    assert isinstance(events[-1], TrainedMember)
    return time.perf_counter() - started


def record() -> RunRecord:
    """Return a record; what it says has no bearing on the time."""
    return RunRecord(
        recipe={}, recipe_hash=recipe_hash({}, ""), fingerprint="", location={}, classes=["0", "1"], input_shape=[1],
        input_dtype="uint8", mean=[0.0], std=[1.0], counts={}, sample=True, seeds=[0], command="", created="",
        commit=None, versions={},
    )  # fmt: skip


def spread(values: list[float], form: str) -> str:
    """Return median and range."""
    median, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low} to {high})"


if __name__ == "__main__":
    main()
