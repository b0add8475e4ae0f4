"""How soon does a LeNet learn from different first weights?

The same LeNet, data and recipe, several seeds for each scheme of first weights: a constant, uniform draws that know
nothing of the layers' sizes, and the schemes of LeCun, Xavier and Kaiming, which do.

    python scripts/experiments/init_schemes.py --root data
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiment import arguments, command, markdown, store
from seedvote.store import read_member, read_run

SCHEMES = {
    "constant 0.2": ["init=constant", "init.value=0.2"],
    "U[0, 1]": ["init=uniform", "init.a=0", "init.b=1"],
    "U[-0.5, 0.5]": ["init=uniform", "init.a=-0.5", "init.b=0.5"],
    "LeCun, normal": ["init=lecun_normal"],
    "Xavier, normal": ["init=xavier_normal"],
    "Kaiming, normal": ["init=kaiming_normal"],
}
RECIPE = ("data=mnist", "model=lenet", "augment=none", "optimizer=sgd", "scheduler=constant", "label_smoothing=0",
          "data.download=false")  # fmt: skip
GOAL = 0.98


def main() -> None:
    """Train the seeds of each scheme and show how their validation accuracy rises."""
    parser = arguments(__doc__)
    parser.add_argument("--root", type=Path, default=Path("data"), help="where MNIST lies")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--limit", type=int, default=12_000, help="training images")
    parser.add_argument("--lr", type=float, default=0.02, help="learning rate")
    options = parser.parse_args()
    if options.sample:
        options.seeds, options.epochs, options.limit = 2, 1, 200
    recipe = [*RECIPE, f"data.root={options.root.resolve()}", f"data.limit={options.limit}", f"epochs={options.epochs}",
              f"n_seeds={options.seeds}", f"optimizer.lr={options.lr}"]  # fmt: skip
    curves = {
        name: learning_curves(options.checkpoints, f"init-{number}-{options.lr}", [*recipe, *scheme], options.epochs)
        for number, (name, scheme) in enumerate(SCHEMES.items())
    }
    rows = [[name, *row(found)] for name, found in curves.items()]
    header = ["first weights", "after epoch 1 (%)", f"after epoch {options.epochs} (%)",
              f"epochs to {100 * GOAL:.0f} %", "diverged"]  # fmt: skip
    values = {name: np.where(np.isnan(found), -1, found).tolist() for name, found in curves.items()}
    store(options.output, "init_schemes", markdown(header, rows), values, drawn(curves))


def learning_curves(checkpoints: Path, name: str, overrides: list[str], epochs: int) -> NDArray[np.float64]:
    """Train a run; return validation accuracies ``[seeds, epochs]``, NaN from where a member diverged."""
    command("train", [*overrides, f"run={name}", f"checkpoints={checkpoints.resolve()}"])
    run = read_run(checkpoints / name)
    found = np.full((len(run.record.seeds), epochs), np.nan)
    for place, seed in enumerate(run.record.seeds):
        history = read_member(run, seed).history
        found[place, : len(history)] = [epoch["validation_accuracy"] for epoch in history]
    return found


def row(found: NDArray[np.float64]) -> list[str]:
    """Return what the table says about a scheme: means and ranges over seeds."""
    diverged = int(np.isnan(found[:, -1]).sum())
    arrived = [int(np.argmax(own >= GOAL)) + 1 for own in found if (own >= GOAL).any()]
    epochs = f"{np.mean(arrived):.1f} ({min(arrived)} to {max(arrived)})" if arrived else "never"
    if arrived and len(arrived) < len(found):
        epochs += f", {len(arrived)} of {len(found)} seeds"
    return [spread(found[:, 0]), spread(found[:, -1]), epochs, f"{diverged} of {len(found)}"]


def spread(values: NDArray[np.float64]) -> str:
    """Return mean and range in per cent, of those that did not diverge."""
    kept = 100 * values[~np.isnan(values)]
    return f"{kept.mean():.2f} ({kept.min():.2f} to {kept.max():.2f})" if len(kept) else "-"


def drawn(curves: dict[str, NDArray[np.float64]]) -> Figure:
    """Draw every seed's validation error over the epochs."""
    colours = ["#666666", "#CC79A7", "#E69F00", "#009E73", "#0072B2", "#D55E00"]
    styles = [":", "-.", "--", "-", "-", "-"]
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for (name, found), colour, style in zip(curves.items(), colours, styles, strict=True):
            for place, own in enumerate(found):
                axes.plot(range(1, len(own) + 1), 100 * (1 - own), color=colour, linestyle=style, alpha=0.8,
                          linewidth=1.3, label=name if place == 0 else None)  # fmt: skip
        axes.axhline(100 * (1 - GOAL), color="black", linewidth=0.7)
        axes.set(yscale="log", xlabel="epoch", ylabel="validation error (%)")
        axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
