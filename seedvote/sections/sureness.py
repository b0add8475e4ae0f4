"""Calibration and selective prediction of the primary vote, on its page."""

from __future__ import annotations

from seedvote.comparison import MEASURES, Comparison
from seedvote.sections.tables import UNDEFINED, Section, Table, score_cells


def calibration(comparison: Comparison) -> Section:
    """Before and after the temperature, or why the vote has none."""
    title, found = "Can its probabilities be trusted", comparison.calibration
    if found.temperature is None or found.before is None or found.after is None:
        advice = "name a vote with probabilities, such as vote=soft, to have them calibrated"
        return Section(title, [f"Calibration of the {found.rule} vote is {UNDEFINED}: {found.reason}; {advice}."])
    bound = " It is at the end of its range: validation has too few errors to fit it." if found.at_bound else ""
    way = "flattens" if found.temperature > 1 else "sharpens" if found.temperature < 1 else "leaves alone"
    sentence = (
        f"A temperature of {found.temperature:.3g}, fitted on validation after pooling, {way} the {found.rule} vote's "
        f"probabilities; decisions stay the same.{bound}"
    )
    rows = [
        ["mean single seed", *score_cells(comparison.members.test.means)[1:]],
        [f"{found.rule} vote", *score_cells(found.before)[1:]],
        ["with temperature", *score_cells(found.after)[1:]],
    ]
    table = Table("Calibration on test", ("", "NLL", "Brier", "ECE"), rows)
    return Section(title, [sentence], ["reliability"], [table])


def selective(comparison: Comparison) -> Section:
    """Errors of the vote where it is surest, by each measure that it has."""
    title = "Answering only where it is sure"
    reasons: dict[str, list[str]] = {}
    for measure, reason in comparison.measures_left_out.items():
        reasons.setdefault(reason, []).append(MEASURES[measure])
    sentences = [f"By {' and '.join(names)} it is {UNDEFINED}: {reason}." for reason, names in reasons.items()]
    if not comparison.selective:
        return Section(title, sentences)
    coverages = list(comparison.selective[0].accuracy_at)
    rows = [
        [
            MEASURES[found.measure],
            f"{100 * found.area:.3f}",
            f"{100 * found.excess_area:.3f}",
            *(f"{100 * found.accuracy_at[key]:.2f}" for key in coverages),
        ]
        for found in comparison.selective
    ]
    rule = comparison.plan.rule
    header = (f"{rule} vote sure by", "AURC (%)", "excess (%)", *(f"{key} %" for key in coverages))
    caption = "Area under risk against coverage, and accuracy (%) on the surest 50 % of samples and more"
    return Section(title, sentences, ["selective"], [Table(caption, header, rows)])
