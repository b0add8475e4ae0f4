"""Time what predicting with all members of a run costs, as a multiple of one member's prediction.

    python scripts/benchmark_prediction.py --run checkpoints/digits-mlp-3f9a1c --repeats 101
    python scripts/benchmark_prediction.py --run checkpoints/mnist-lenet-5b20e4 --root DIR --threads 1
    python scripts/benchmark_prediction.py --sample        # trains a little run of its own, to see that it works

From raw inputs of the run's test split to logits, the contestants in turns, in one process. ``plain`` is the loop that
everybody writes: 1,000 samples at a time through one network after another, each member normalising for itself, and
matrices multiplied as torch has it; the others do as the ``predict`` command does (``matmul=auto``). "With loading"
begins with the run's directory. Prints medians over the repeats with their range, on the wall and of all threads, and
the median of the ratios within a turn with their middle half.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import seedvote
from seedvote.assembly import stored_data
from seedvote.data import network_inputs, preprocessed
from seedvote.inference import Ensemble
from seedvote.matmul import TORCHS_OWN, choose_matmul, precision, set_precision
from seedvote.types import Normalization

BATCH = 1000
RATIOS = (
    ("all", "one"),
    ("all, with loading", "one, with loading"),
    ("plain all", "plain one"),
    ("plain one", "one"),
    ("plain all", "all"),
    ("all", "plain one"),
)


def main() -> None:
    """Time a run's members, or those of a little run that is trained for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", help="the run's directory")
    what.add_argument("--sample", action="store_true", help="three members trained on 100 digits, three repeats")
    parser.add_argument("--root", help="where its data set lies, if it was moved")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--threads", type=int, default=None, help="torch's; default its own choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.sample:
        measure(Path(options.run), options.root, options.repeats)
        return
    with tempfile.TemporaryDirectory() as place:
        recipe = ["n_seeds=3", "epochs=1", "data.limit=100", "model.hidden=[16]", "engine=sequential"]
        command = [sys.executable, "-m", "seedvote.train", f"checkpoints={place}", "run=little", *recipe]
        subprocess.run(command, check=True, capture_output=True, cwd=place)
        print("sample, not a result")
        measure(Path(place) / "little", None, 3)


def measure(path: Path, root: str | None, repeats: int) -> None:
    """Print what the members of a run take."""
    matmul = choose_matmul("auto")
    ensemble = seedvote.load(path, device="cpu")
    inputs = stored_data(ensemble.run, {"root": root} if root else {}, trust=False).test.inputs
    first = ensemble.seeds[:1]
    contestants: dict[str, Callable[[], np.ndarray]] = {
        "one": lambda: ensemble.member_logits(0, inputs)[None],
        "all": lambda: ensemble.predict_logits(inputs),
        "one, with loading": lambda: seedvote.load(path, device="cpu", seeds=first).predict_logits(inputs),
        "all, with loading": lambda: seedvote.load(path, device="cpu").predict_logits(inputs),
        "plain one": lambda: plain(ensemble, 1, inputs),
        "plain all": lambda: plain(ensemble, len(ensemble.seeds), inputs),
    }
    answers = {name: contestant() for name, contestant in contestants.items()}  # what is only slow the first time
    one_by_one = np.stack([ensemble.member_logits(place, inputs) for place in range(len(ensemble.seeds))])
    labels, expected = answers["all"].argmax(2), answers["plain all"].argmax(2)
    print(
        f"{ensemble.run.name}: {len(ensemble.seeds)} members, {len(inputs)} samples, {repeats} repeats; "
        f"{torch.get_num_threads()} threads on {os.cpu_count()} "
        f"cores, {platform.machine()}, torch {torch.__version__}; matrices multiplied by {matmul or 'torch alone'}\n"
        f"asked one by one: {'the same bits' if np.array_equal(one_by_one, answers['all']) else 'OTHER LOGITS'}; "
        f"beside the plain loop: {int((labels != expected).sum())} other labels, largest difference of two logits "
        f"{np.abs(answers['all'] - answers['plain all']).max():.2g}\n"
    )
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            contestant()
            wall[name].append(1000 * (time.perf_counter() - began))
            cpu[name].append(1000 * (time.process_time() - began_cpu))
    print("| contestant | ms on the wall, median (range) | ms of all threads, median (range) |\n|---|---|---|")
    for name in contestants:
        print(f"| {name} | {spread_of(wall[name], 1)} | {spread_of(cpu[name], 1)} |")
    print("\n| ratio | on the wall, median (middle half) | of all threads, median (middle half) |\n|---|---|---|")
    for above, below in RATIOS:
        cells = [
            spread_of([long / short for long, short in zip(times[above], times[below], strict=True)], 2, middle=True)
            for times in (wall, cpu)
        ]
        print(f"| {above} / {below} | {cells[0]} | {cells[1]} |")


@torch.inference_mode()
def plain(ensemble: Ensemble, members: int, inputs: torch.Tensor) -> np.ndarray:
    """Return the logits ``[members, S, C]`` of the first members as the plain loop computes them."""
    record = ensemble.run.record
    normalization = Normalization(tuple(record.mean), tuple(record.std))
    logits = np.empty((members, len(inputs), len(ensemble.classes)), np.float32)
    ours = precision()
    set_precision(TORCHS_OWN)
    for position in range(members):
        network = ensemble._networks[ensemble.seeds[position] % len(ensemble._networks)]
        network.load_state_dict(ensemble._states[position])
        network.eval()
        for start in range(0, len(inputs), BATCH):
            batch = network_inputs(inputs[start : start + BATCH], normalization)
            logits[position, start : start + BATCH] = network(preprocessed(batch, ensemble._preprocessing)).numpy()
    set_precision(ours)
    return logits


def spread_of(values: list[float], digits: int, middle: bool = False) -> str:
    """Write the median, with the range or the middle half."""
    ordered = sorted(values)
    beyond = len(ordered) // 4 if middle else 0
    return (
        f"{statistics.median(ordered):.{digits}f} ({ordered[beyond]:.{digits}f} to {ordered[-1 - beyond]:.{digits}f})"
    )


if __name__ == "__main__":
    main()
