"""The sections of the page of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seedvote.comparison import Comparison
from seedvote.report import percent
from seedvote.sections.tables import NONE, UNDEFINED, Section, Table, p_cell, points_cell, score_cells
from seedvote.verdict import duration, signed

Named = Sequence[tuple[str, Comparison]]


def build_runs(runs: Named, corrected: Mapping[str, float]) -> list[Section]:
    """Return the sections; corrected: Holm's p-values of the gains, by run, where there is a vote."""
    return [
        Section("Single seeds and votes", [], ["runs"], [_spreads(runs)]),
        # Too wide to stand beside the figure.
        Section("What the votes gain", [], [], [_gains(runs, corrected)]),
        Section("Probabilities", [], [], [_scores(runs)]),
        Section("Cost", [], [], [_costs(runs)]),
    ]


def _gains(runs: Named, corrected: Mapping[str, float]) -> Table:
    plan = runs[0][1].plan
    rows = []
    for name, found in runs:
        single, gain = found.members.test.accuracy, found.primary.gain
        deviation = "" if single.deviation is None else f" ± {100 * single.deviation:.2f}"
        row = [name, str(len(found.seeds)), f"{100 * single.mean:.2f}{deviation} %"]
        if name in corrected:
            row += [percent(found.primary.scores.accuracy), signed(gain.difference), points_cell(gain.interval)]
            row += [p_cell(corrected[name]), points_cell(found.procedure.interval)]
        else:
            row += [NONE] * 5
        rows.append(row)
    level = f"{100 * plan.level:g} %"
    header = (
        "run",
        "seeds",
        "mean seed ± SD",
        f"{plan.rule} vote",
        "gain (points)",
        level,
        "p (Holm)",
        "fresh committee",
    )
    caption = (
        f"Votes against single seeds on test; p: sign-flip test, Holm's for {len(corrected)} runs; fresh committee: "
        f"{level} interval of the gain with seeds and samples both random"
    )
    return Table(caption, header, rows)


def _spreads(runs: Named) -> Table:
    rows = []
    for name, found in runs:
        single, chosen = found.members.test.accuracy, found.chosen
        ends = [percent(single.minimum), percent(single.maximum)]
        rows.append([name, *ends, f"seed {chosen.seed}", percent(chosen.test.accuracy)])
    header = ("run", "lowest seed", "highest seed", "best on validation", "its accuracy")
    return Table("Single seeds on test", header, rows)


def _scores(runs: Named) -> Table:
    rows = []
    for name, found in runs:
        rows.append([f"{name}: mean seed", *score_cells(found.members.test.means)[1:]])
        if len(found.seeds) > 1:
            rows.append([f"{name}: {found.plan.rule} vote", *score_cells(found.primary.scores)[1:]])
    reason = runs[0][1].primary.scores.reason
    caption = "Scores of probabilities on test; lower is better"
    if reason is not None and len(rows) > len(runs):
        caption += f". Those of the vote are {UNDEFINED}: {reason}"
    return Table(caption, ("", "NLL", "Brier", "ECE"), rows)


def _costs(runs: Named) -> Table:
    rows = []
    for name, found in runs:
        cost, several = found.cost, len(found.seeds) > 1
        rows.append(
            [
                name,
                duration(cost.training.mean),
                duration(cost.training_total) if several else NONE,
                duration(cost.inference.mean),
                duration(cost.inference_total) if several else NONE,
                ", ".join(sorted({*cost.training_devices, *cost.inference_devices})),
            ]
        )
    samples = runs[0][1].cost.samples
    header = ("run", "training, one seed", "training, vote", "inference, one seed", "inference, vote", "devices")
    return Table(f"Seconds as measured; inference of {samples:,} test samples", header, rows)
