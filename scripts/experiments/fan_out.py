"""How far apart do networks begin that were initialised alike?

One input goes through a thousand networks of twenty layers of 512 units, ReLU after each, with weights of He et al.
(2015). Their scheme keeps the second moment of the activations from layer to layer *on average over
initialisations*; one network's own spread wanders off, the further the deeper. To first order the variance of the
log of a layer's mean square is ``5 / n`` for each layer before it, so that of the log standard deviation is a
quarter: ``SD = sqrt(5 L / (4 n))`` at layer ``L`` of width ``n``.

    python scripts/experiments/fan_out.py
"""

from __future__ import annotations

import math

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from experiment import arguments, markdown, store
from seedvote.initialization.schemes import kaiming_normal
from seedvote.seeding import Streams

SHOWN = (1, 5, 10, 15, 20)


def main() -> None:
    """Draw the networks and show how their layers' standard deviations spread."""
    parser = arguments(__doc__)
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    if options.sample:
        options.networks, options.width = 20, 64
    spreads = standard_deviations(options.networks, options.layers, options.width)
    rows = [
        [
            str(layer),
            f"{column.mean():.3f} ± {column.std(ddof=1):.3f}",
            f"{column.min():.3f} to {column.max():.3f}",
            f"{np.log(column).std(ddof=1):.4f}",
            f"{predicted(layer, options.width):.4f}",
        ]
        for layer, column in enumerate(spreads.T, start=1)
        if layer in SHOWN
    ]
    header = ["layer", "SD of activations: mean ± SD", "range", "SD of its log", "sqrt(5L / 4n)"]
    values = {"networks": options.networks, "width": options.width, "standard_deviations": spreads.tolist()}
    store(options.output, "fan_out", markdown(header, rows), values, drawn(spreads, options.width))


@torch.inference_mode()
def standard_deviations(networks: int, layers: int, width: int) -> NDArray[np.float64]:
    """Return the standard deviation over units of each layer's activations, ``[networks, layers]``."""
    found = np.empty((networks, layers))
    first = torch.randn(width, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(width, width, bias=False)
    for seed in range(networks):
        generator = torch.Generator().manual_seed(Streams(seed).number("init", 1))
        values = first
        for depth in range(layers):
            kaiming_normal(layer, "weight", layer.weight, generator)
            values = layer(values).relu()
            found[seed, depth] = values.std().item()
    return found


def predicted(layer: int, width: int) -> float:
    """Return the standard deviation, over initialisations, of the log of a layer's standard deviation."""
    return math.sqrt(5 * layer / (4 * width))


def drawn(spreads: NDArray[np.float64], width: int) -> Figure:
    """Draw every network's layers, the predicted band, and the distribution in some layers."""
    networks, layers = spreads.shape
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        depth = np.arange(1, layers + 1)
        jitter = np.random.default_rng(0).uniform(-0.3, 0.3, spreads.shape)
        left.scatter((depth + jitter).ravel(), spreads.ravel(), s=1, color="#0072B2", alpha=0.25, rasterized=True)
        band = np.array([predicted(layer, width) for layer in depth])
        centre = np.median(spreads, axis=0)
        for sign in (-2, 2):
            left.plot(depth, centre * np.exp(sign * band), color="#D55E00", linestyle="--", linewidth=1.5,
                      label="median · exp(± 2 sqrt(5L / 4n))" if sign > 0 else None)  # fmt: skip
        left.set(xlabel="layer", xticks=SHOWN, ylabel="SD of activations", title=f"{networks} networks, width {width}")
        left.legend(loc="upper left", frameon=False)
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(SHOWN)))
        shown = [layer for layer in SHOWN if layer <= layers]
        bins = np.linspace(spreads.min(), np.quantile(spreads, 0.999), 50)
        for layer, colour in zip(shown, colours, strict=False):
            right.hist(
                spreads[:, layer - 1], bins, histtype="step", linewidth=1.5, color=colour, label=f"layer {layer}"
            )
        right.set(xlabel="SD of activations", ylabel="networks")
        right.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
