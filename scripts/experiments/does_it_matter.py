"""Does the luck of the first weights last, and does a vote cure more of it in deeper networks?

Perceptrons of several depths, with and without BatchNorm, from many seeds each. How far an untrained network's
activations lie from the others' is set against how accurate it becomes (Spearman's rank correlation over seeds), and
the vote's gain over a single seed against the depth.

    python scripts/experiments/does_it_matter.py --seeds 100
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import bootstrap, spearmanr
from torch import nn

from experiment import arguments, compared, markdown, points, span, store, test_answers
from seedvote.assembly import build_recipe, load_data
from seedvote.config import CONF_DIR, checked, location_of, recipe_of
from seedvote.data import evaluation_inputs
from seedvote.initialization import initial_model
from seedvote.schemas import TrainConfig
from seedvote.seeding import Streams

DEPTHS = (2, 4, 8, 16)
NORMS = ("none", "batch")
RECIPE = ("data=digits", "model=mlp", "init=kaiming_normal", "model.dropout=0", "optimizer.lr=0.001")


def main() -> None:
    """Train every depth with and without BatchNorm, and show what the first weights had to do with the result."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    options = parser.parse_args()
    if options.sample:
        options.seeds, options.width, options.epochs, options.depths = 4, 8, 1, DEPTHS[:2]
    recipe = [*RECIPE, f"epochs={options.epochs}", *(["data.limit=200"] if options.sample else [])]
    found = {}
    for depth in options.depths:
        for norm in NORMS:
            network = [f"model.hidden={[options.width] * depth}".replace(" ", ""), f"model.norm={norm}"]
            overrides = [*recipe, *network, f"n_seeds={options.seeds}"]
            name = f"matter-{depth}-{norm}-{options.epochs}"
            values = compared(options.checkpoints, name, overrides)
            found[f"{depth} layers, {'BatchNorm' if norm == 'batch' else 'no norm'}"] = summary(
                values, first_spreads(overrides, options.seeds), options.checkpoints / name
            )
    rows = [
        [
            name,
            f"{points(values['mean'])} ± {points(values['deviation'])}",
            f"{values['log_spread']:.3f}",
            f"{values['correlation']:+.2f} ({values['lower']:+.2f} to {values['upper']:+.2f})",
            points(values["vote"]),
            f"{100 * values['gain']:+.2f} ({span(values['gain_interval'])})",
        ]
        for name, values in found.items()
    ]
    header = ["network", "single seeds (%)", "SD of log first spread", "rank correlation with accuracy",
              "soft vote (%)", "gain (points)"]  # fmt: skip
    store(options.output, "does_it_matter", markdown(header, rows), found, drawn(found))


def first_spreads(overrides: list[str], seeds: int) -> NDArray[np.float64]:
    """Return for each seed the log standard deviation of the logits of its untrained network on training samples."""
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        config = checked(compose("train", overrides), TrainConfig)
    data = load_data(recipe_of(config), location_of(config))
    recipe = build_recipe(recipe_of(config), data)
    inputs = evaluation_inputs(data.train.inputs[:256], data)
    found = np.empty(seeds)
    for seed in range(seeds):
        model: nn.Module = initial_model(recipe, Streams(seed, recipe.vary, recipe.shared_seed))
        with torch.inference_mode():
            found[seed] = model(inputs).std().log().item()
    return found


def summary(values: dict[str, Any], spreads: NDArray[np.float64], run: Path) -> dict[str, Any]:
    """Return what the table shows; the correlation's interval is a percentile bootstrap over seeds."""
    logits, labels = test_answers(run)
    accuracies = (logits.argmax(2) == labels).mean(1)

    def correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        # A resample in which all are equal has no ranks: nothing goes together there.
        return float(spearmanr(x, y).statistic) if np.ptp(x) and np.ptp(y) else 0.0

    interval = bootstrap(
        (spreads, accuracies), correlation, paired=True, vectorized=False, n_resamples=2000, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    accuracy = values["members"]["test"]["accuracy"]
    vote = next(vote for vote in values["votes"] if vote["primary"])
    return {
        "mean": accuracy["mean"],
        "deviation": accuracy["deviation"],
        "log_spread": float(spreads.std(ddof=1)),
        "correlation": correlation(spreads, accuracies),
        "lower": float(interval.low),
        "upper": float(interval.high),
        "vote": vote["scores"]["accuracy"],
        "gain": vote["gain"]["difference"],
        "gain_interval": vote["gain"]["interval"],
        "first_spreads": spreads.tolist(),
        "accuracies": accuracies.tolist(),
    }


def drawn(found: dict[str, dict[str, Any]]) -> Figure:
    """Draw a network's first spread against its accuracy, for each kind of network."""
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 1 + 2.2 * len(found) / 4), layout="constrained")
        panels = figure.subplots(-(-len(found) // 4), min(4, len(found)), squeeze=False).ravel()
        for axes, (name, values) in zip(panels, found.items(), strict=False):
            colour = "#D55E00" if "BatchNorm" in name else "#0072B2"
            axes.scatter(values["first_spreads"], [100 * own for own in values["accuracies"]], s=6, color=colour)
            axes.set_title(f"{name}\nrank correlation {values['correlation']:+.2f}", fontsize=8)
        figure.supxlabel("log SD of the untrained network's logits", fontsize=9)
        figure.supylabel("test accuracy (%)", fontsize=9)
    return figure


if __name__ == "__main__":
    main()
