"""Time what folding BatchNorm saves: the members of a run on their own test split, both ways in turns.

    python scripts/benchmark_folding.py --run checkpoints/cifar10-resnet-3f9a1c --samples 1000 --repeats 15

Prints the medians over the repeats, the ratio within each pair (plain / folded), the largest difference of two logits
and how many labels are others. On the CPU it counts the seconds of this process, which other processes disturb less
than the time on the wall; elsewhere the latter.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from typing import Any

import numpy as np
import torch

import seedvote
from seedvote.assembly import stored_data


def main() -> None:
    """Ask the first member of a run both ways and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="the run's directory")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ensembles = [seedvote.load(options.run, device=options.device, fold_batchnorm=fold) for fold in (False, True)]
    inputs = stored_data(ensembles[0].run, {}, trust=False).test.inputs
    plain, folded = (ensemble.member_logits(0, inputs) for ensemble in ensembles)
    print(f"torch {torch.__version__}, {platform.machine()}, {options.device}, {options.threads} threads")
    print(
        f"{len(inputs)} samples: largest difference of two logits {np.abs(plain - folded).max():.2g} (the largest is "
        f"{np.abs(plain).max():.1f}), {int((plain.argmax(1) != folded.argmax(1)).sum())} labels are others"
    )
    for ensemble in ensembles:  # what is only slow the first time
        seconds_of(ensemble, inputs[: options.samples])
    pairs = [[seconds_of(each, inputs[: options.samples]) for each in ensembles] for _ in range(options.repeats)]
    for name, seconds in zip(("plain", "folded"), zip(*pairs, strict=True), strict=True):
        spread = f"{1000 * min(seconds):.0f} to {1000 * max(seconds):.0f}"
        print(f"{name:7} {1000 * statistics.median(seconds):.0f} ms ({spread})")
    ratios = sorted(plain / folded for plain, folded in pairs)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    print(f"plain / folded {statistics.median(ratios):.2f}, middle half of {len(pairs)} pairs {low:.2f} to {high:.2f}")


def seconds_of(ensemble: Any, inputs: torch.Tensor) -> float:
    """Return how long one member takes for some samples, folding included."""
    clock = time.process_time if ensemble.device.type == "cpu" else time.perf_counter
    started = clock()
    ensemble.member_logits(0, inputs)
    return clock() - started


if __name__ == "__main__":
    main()
