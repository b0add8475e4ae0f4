"""Are N seeds of one model worth more or less than N different models, or than one model at the price of N?

On few images of MNIST, several committees of N members each: seeds of one LeNet; LeNets of N shapes; one LeNet with N
settings of learning rate and dropout; seeds that also draw a bootstrap sample each. Beside them single networks that
cost about as much to train as a committee: a LeNet trained N times as long, and one about N times as costly a step.

    python scripts/experiments/seeds_or_architectures.py --root data
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import t

from experiment import arguments, command, markdown, store, test_answers
from seedvote.store import read_member, read_run

RECIPE = ("data=mnist", "model=lenet", "augment=none", "data.download=false")
SHAPES = [(8, 16), (8, 32), (12, 24), (12, 32), (16, 32), (16, 24), (20, 28), (24, 24), (16, 40), (10, 40)]
SETTINGS = [(rate, dropout) for rate in (0.001, 0.002, 0.003, 0.005, 0.008) for dropout in (0.0, 0.2)]


def main() -> None:
    """Train everything and set committees and single networks of equal cost side by side."""
    parser = arguments(__doc__)
    parser.add_argument("--root", type=Path, default=Path("data"), help="where MNIST lies")
    parser.add_argument("--members", type=int, default=10, help="N, at most 10")
    parser.add_argument("--committees", type=int, default=3)
    parser.add_argument("--limit", type=int, default=3000, help="training images, and as many test images")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    if options.sample:
        options.members, options.committees, options.limit, options.epochs = 2, 2, 100, 1
    recipe = [*RECIPE, f"data.root={options.root.resolve()}", f"data.limit={options.limit}"]
    members, committees = options.members, options.committees
    shapes = [{"model.channels": list(shape)} for shape in SHAPES[:members]]
    settings = [{"optimizer.lr": rate, "model.dropout": dropout} for rate, dropout in SETTINGS[:members]]
    epochs, many = f"epochs={options.epochs}", f"n_seeds={members * committees}"
    plans = {
        f"{members} seeds": [epochs, many],
        f"{members} shapes": [epochs, many, f"members={_notation(shapes)}"],
        f"{members} settings": [epochs, many, f"members={_notation(settings)}"],
        f"{members} bootstrap samples": [epochs, many, "data.bootstrap=true"],
        "one, trained longer": [f"epochs={options.epochs * members}", f"n_seeds={committees}"],
        "one, wider": [epochs, f"n_seeds={committees}", "model.channels=[64,112]", "model.hidden=[420,294]"],
    }
    found = {}
    for number, (name, overrides) in enumerate(plans.items()):
        run = options.checkpoints / f"rivals-{number}"
        command("train", [*recipe, *overrides, f"run={run.name}", f"checkpoints={options.checkpoints.resolve()}"])
        found[name] = scores(run, members if number < 4 else 1)
    rows = [
        [name, *(_mean(100 * values[key]) for key in ("vote", "single")), f"{values['seconds'].mean():.1f}"]
        for name, values in found.items()
    ]
    header = ["what is trained", "its answer (%)", "its single networks (%)", "training seconds"]
    numbers = {name: {key: own.tolist() for key, own in values.items()} for name, values in found.items()}
    store(options.output, "seeds_or_architectures", markdown(header, rows), numbers, drawn(found))


def scores(run: Path, members: int) -> dict[str, NDArray[np.float64]]:
    """Return for each committee of a run its soft vote's accuracy, its members' mean accuracy, and training seconds."""
    logits, labels = test_answers(run)
    record = read_run(run)
    seconds = np.array([read_member(record, seed).seconds for seed in record.record.seeds])
    committees = np.arange(len(logits)).reshape(-1, members)
    probabilities = softmax(logits.astype(np.float64), axis=2)
    return {
        "vote": np.array([(probabilities[own].mean(0).argmax(1) == labels).mean() for own in committees]),
        "single": np.array([(logits[own].argmax(2) == labels).mean() for own in committees]),
        "seconds": np.array([seconds[own].sum() for own in committees]),
    }


def drawn(found: dict[str, dict[str, NDArray[np.float64]]]) -> Figure:
    """Draw every committee's and every single network's accuracy."""
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.subplots()
        for place, values in enumerate(found.values()):
            axes.plot(100 * values["single"], np.full(len(values["single"]), place + 0.15), "|", color="#0072B2",
                      markersize=10, label="mean of its single networks" if place == 0 else None)  # fmt: skip
            axes.plot(100 * values["vote"], np.full(len(values["vote"]), place - 0.1), "o", color="#D55E00",
                      markersize=5, label="its answer" if place == 0 else None)  # fmt: skip
        axes.set(yticks=range(len(found)), yticklabels=list(found), xlabel="test accuracy (%)")
        axes.invert_yaxis()
        axes.legend(frameon=False)
    return figure


def _mean(values: NDArray[np.float64]) -> str:
    """Return mean and 95 % interval of the mean over committees (Student's t)."""
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.2f} ± {half:.2f}"


def _notation(members: list[dict[str, object]]) -> str:
    entries = (",".join(f"{key}:{json.dumps(value)}" for key, value in own.items()) for own in members)
    return "[" + ",".join(f"{{{entry}}}" for entry in entries) + "]"


if __name__ == "__main__":
    main()
