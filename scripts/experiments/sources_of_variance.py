"""Where do the differences between seeds come from?

The same recipe is trained from many seeds of which only one thing follows the seed: the first weights, the order of the
data, the augmentation, dropout; then all of them, then nothing. What does not follow it is the same for all members.

    python scripts/experiments/sources_of_variance.py
"""

from __future__ import annotations

import math
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from scipy.stats import chi2

from experiment import arguments, compared, markdown, points, span, store

SOURCES = {
    "first weights": "[init]",
    "order of the data": "[order]",
    "augmentation": "[augment]",
    "dropout": "[dropout]",
    "all of these": "[init,order,augment,dropout]",
    "nothing": "[]",
}
RECIPE = ("data=digits", "model=mlp", "augment=affine", "augment.crop=1")


def main() -> None:
    """Train a run for each source and set them side by side."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    options = parser.parse_args()
    recipe = list(RECIPE)
    if options.sample:
        options.seeds = 3
        recipe += ["data.limit=200", "epochs=2", "model.hidden=[16]"]
    found = {
        source: summary(
            compared(
                options.checkpoints,
                f"sources-{source.replace(' ', '-')}",
                [*recipe, f"vary={vary}", f"n_seeds={options.seeds}"],
            )
        )
        for source, vary in SOURCES.items()
    }
    rows = [
        [
            source,
            f"{points(values['mean'])} ± {points(values['deviation'])}",
            f"{points(values['deviation_lower'])} to {points(values['deviation_upper'])}",
            points(values["real_deviation"]),
            points(values["disagreement"]),
            points(values["vote"]),
            f"{100 * values['gain']:+.2f} ({span(values['gain_interval'])})",
        ]
        for source, values in found.items()
    ]
    header = ["what follows the seed", "single seeds (%)", "SD, 95 % interval", "SD without test noise",
              "pairs disagree on (%)", "soft vote (%)", "gain (points)"]  # fmt: skip
    store(options.output, "sources_of_variance", markdown(header, rows), found, drawn(found))


def summary(values: dict[str, Any]) -> dict[str, Any]:
    """Return what the table shows of a comparison. The SD's interval is that of a normal sample."""
    accuracy, count = values["members"]["test"]["accuracy"], len(values["seeds"])
    deviation = accuracy["deviation"]
    real = values["spread"]["accuracy"]["real"]
    vote = next(vote for vote in values["votes"] if vote["primary"])
    return {
        "mean": accuracy["mean"],
        "deviation": deviation,
        "deviation_lower": deviation * math.sqrt((count - 1) / chi2.ppf(0.975, count - 1)),
        "deviation_upper": deviation * math.sqrt((count - 1) / chi2.ppf(0.025, count - 1)),
        "real_deviation": None if real is None else math.sqrt(max(real, 0.0)),
        "disagreement": values["diversity"]["disagreement"],
        "vote": vote["scores"]["accuracy"],
        "gain": vote["gain"]["difference"],
        "gain_interval": vote["gain"]["interval"],
    }


def drawn(found: dict[str, dict[str, Any]]) -> Figure:
    """Draw for each source the SD between seeds, how much pairs disagree, and the gain of the vote."""
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3), layout="constrained")
        spread, differ, gain = figure.subplots(1, 3, sharey=True)
        places = range(len(found))
        deviations = [100 * values["deviation"] for values in found.values()]
        spread.errorbar(
            deviations, places, fmt="o", color="#0072B2", capsize=3,
            xerr=[
                [own - 100 * values["deviation_lower"] for own, values in zip(deviations, found.values(), strict=True)],
                [100 * values["deviation_upper"] - own for own, values in zip(deviations, found.values(), strict=True)],
            ],
        )  # fmt: skip
        differ.plot([100 * values["disagreement"] for values in found.values()], places, "s", color="#009E73")
        gains = [100 * values["gain"] for values in found.values()]
        sides = [
            [
                0.0 if values["gain_interval"]["lower"] is None else abs(100 * values["gain_interval"][side] - own)
                for own, values in zip(gains, found.values(), strict=True)
            ]
            for side in ("lower", "upper")
        ]
        gain.errorbar(gains, places, xerr=sides, fmt="D", color="#D55E00", capsize=3)
        gain.axvline(0, color="#666666", linewidth=0.8)
        spread.set(yticks=list(places), yticklabels=list(found), xlabel="SD of accuracy (points)", xlim=(0, None))
        spread.invert_yaxis()
        differ.set(xlabel="pairs disagree on (%)", xlim=(0, None))
        gain.set(xlabel="gain of the soft vote (points)")
    return figure


if __name__ == "__main__":
    main()
