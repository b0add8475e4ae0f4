"""Measure how long a comparison takes and how much memory, on made-up logits.

    OPENBLAS_NUM_THREADS=2 python scripts/benchmark_compare.py           # 100 members, 10,000 samples, 100 classes
    python scripts/benchmark_compare.py --members 10 --classes 10 --votes soft

Members either agree (99.9 % right) or are at odds (48 % right). Each comparison runs in a process of its own, so that
its largest memory is its own; CPU seconds are those of all threads.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time

import numpy as np
import scipy

from seedvote.comparison import Cost, Plan, compare
from seedvote.stats import summarize

# How far the true class is ahead, how much the members differ, and on how many samples all is ten times as clear.
WORLDS = {"agree": (6.0, 0.3, 0.9), "at odds": (3.0, 0.7, 0.0)}


def made_up(world: str, members: int, samples: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [M, S, C] in float32 and true classes [S]."""
    ahead, noise, easy = WORLDS[world]
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=samples)
    base = generator.normal(size=(samples, classes))
    base[np.arange(samples), targets] += ahead
    base[generator.random(samples) < easy] *= 10
    logits = np.empty((members, samples, classes), dtype=np.float32)
    for own in logits:
        own[...] = 2 * (base + noise * generator.normal(size=base.shape))
    return logits, targets


def measure(world: str, rule: str, members: int, samples: int, classes: int) -> str:
    """One line of the table."""
    validation = made_up(world, members, max(2, samples // 2), classes, seed=1)
    test = made_up(world, members, samples, classes, seed=2)
    one = summarize([1.0] * members)
    cost = Cost(one, float(members), one, float(members), samples, ("sequential",), ("cpu",), ("cpu",))
    names = [str(label) for label in range(classes)]
    wall, cpu = time.perf_counter(), time.process_time()
    compare(validation, test, seeds=range(members), classes=names, cost=cost, plan=Plan(rule))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"| {world} | {rule} | {wall:.1f} | {cpu:.1f} | {memory:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--votes", nargs="+", default=["soft", "majority"])
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS)
    parser.add_argument("--alone", action="store_true", help="measure in this process: one world, one vote")
    options = parser.parse_args()
    if options.alone:
        shape = (options.members, options.samples, options.classes)
        print(measure(options.worlds[0], options.votes[0], *shape))
        return
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    print(f"{options.members} members, {options.samples} test samples, {options.classes} classes; {versions}, ", end="")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| members | primary vote | seconds | CPU seconds | GiB |\n|---|---|---|---|---|", flush=True)
    for world in options.worlds:
        for vote in options.votes:
            own = [sys.argv[0], "--alone", "--worlds", world, "--votes", vote]
            for name in ("members", "samples", "classes"):
                own += [f"--{name}", str(getattr(options, name))]
            subprocess.run([sys.executable, *own], check=True)


if __name__ == "__main__":
    main()
