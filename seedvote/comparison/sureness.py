"""What the primary vote's probabilities are worth: calibration, and answering only where the vote is sure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seedvote import stats, voting
from seedvote.comparison.alone import CALIBRATION_BINS, Alone
from seedvote.comparison.records import Plan, Pooled, Selective
from seedvote.comparison.rules import NO_PROBABILITIES
from seedvote.voting import Vote

SELECTIVE_COVERAGES = (0.5, 0.8, 0.9, 0.95, 1.0)
# Ways to be sure, and what to call them.
MEASURES = {
    "max_probability": "top probability",
    "negative_entropy": "entropy",
    "negative_mutual_information": "mutual information",
    "agreement": "vote agreement",
}
_OF_PROBABILITIES = ("max_probability", "negative_entropy")
_OF_SEVERAL = ("negative_mutual_information", "agreement")
_ALONE = "one member has nobody to agree with"
_CURVE_POINTS = 200

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def calibration(plan: Plan, validation: Alone, weights: Floats | None, vote: Vote, targets: Integers) -> Pooled:
    """Fit a temperature to the vote's probabilities on validation, and score those on test before and after it.

    weights: of the members, if the rule has any. vote, targets: on test.
    """
    rule = plan.rule
    if rule in NO_PROBABILITIES:
        return Pooled(rule, None, None, None, None, None, None, NO_PROBABILITIES[rule])
    own = voting.vote(validation.logits, rule, tie=plan.tie, weights=weights)
    found = stats.calibrate(own.probabilities, validation.targets, vote.probabilities, targets)
    return Pooled(
        rule,
        found.temperature,
        found.at_bound,
        found.before,
        found.after,
        stats.reliability(vote.probabilities, targets, bins=CALIBRATION_BINS),
        stats.reliability(found.probabilities, targets, bins=CALIBRATION_BINS),
        None,
    )


def selective(rule: str, test: Alone, vote: Vote) -> tuple[tuple[Selective, ...], dict[str, str]]:
    """Risk against coverage of the vote by each measure, and the measures that it does not have, with the reason."""
    left_out = dict.fromkeys(_OF_PROBABILITIES, NO_PROBABILITIES[rule]) if rule in NO_PROBABILITIES else {}
    pooled = None if left_out else vote.probabilities
    if len(test.labels) == 1:
        left_out |= dict.fromkeys(_OF_SEVERAL, _ALONE)
    confidence = stats.confidence_scores(test.probabilities, pooled, vote.labels)
    right = vote.labels == test.targets
    places = np.unique(np.linspace(0, len(right) - 1, min(_CURVE_POINTS, len(right))).astype(int))
    found = []
    for measure in MEASURES:
        if measure in left_out:
            continue
        curve = stats.risk_coverage(getattr(confidence, measure), right)
        found.append(
            Selective(
                rule,
                measure,
                curve.area,
                curve.excess_area,
                tuple(curve.coverage[places].tolist()),
                tuple(curve.risk[places].tolist()),
                {f"{100 * part:g}": stats.accuracy_at_coverage(curve, part) for part in SELECTIVE_COVERAGES},
            )
        )
    return tuple(found), left_out
