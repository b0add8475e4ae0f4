"""What the page says in words of its own: texts of the figures, and what the terms mean."""

from __future__ import annotations

from collections.abc import Sequence

from seedvote.comparison import MEASURES, Comparison
from seedvote.report import percent

WORDS = (
    ("single seed", "One member alone: the model trained from one random seed."),
    ("gain", "Accuracy of the vote minus the mean accuracy of its members, on the same samples, in percentage points."),
    (
        "this committee, these samples",
        "The members are as they are; the interval (BCa bootstrap) and the p-value (exact sign-flip test) say how the "
        "gain could have come out on other test samples.",
    ),
    (
        "a fresh committee against a fresh seed",
        "The question to ask before training again: seeds and samples are both drawn anew, so the interval is wider.",
    ),
    (
        "p-value",
        "How often chance alone would show a difference at least as large. Small is hard to explain by chance; it is "
        "not the size of the difference. Secondary rules and classes are corrected for how many were tried (Holm).",
    ),
    (
        "won, lost",
        "Samples that the vote has right and the member chosen on validation wrong, and the other way round.",
    ),
    ("NLL, Brier", "Proper scores of the probabilities, lower is better: nats for each sample, and 0 to 2."),
    (
        "ECE",
        "How far confidence and accuracy differ, over 15 bins of equal width; lower is better.",
    ),
    (
        "risk, coverage, AURC",
        "Error rate among the surest samples, their share, and the mean of the first over the second.",
    ),
    (
        "selection effect",
        "The best of many looks better than it is, because it was also the luckiest on these samples.",
    ),
)


def describe(figure: str, comparison: Comparison) -> tuple[str, str]:
    """Return the text for who does not see a figure, and its caption."""
    single, vote = comparison.members.test.accuracy, comparison.primary.scores.accuracy
    curve, calibration = comparison.curve, comparison.calibration
    low, high = percent(single.minimum), percent(single.maximum)
    first, last = percent(curve.accuracy[0]), percent(curve.accuracy[-1])
    won, lost = comparison.primary.chosen.won, comparison.primary.chosen.lost
    before, after = (
        "not defined" if each is None else f"{each.expected_calibration_error:.4f}"
        for each in (calibration.before, calibration.after)
    )
    selective = ""
    if comparison.selective:
        surest = comparison.selective[0]
        selective = (
            f"Error rate of the {surest.rule} vote against coverage; of the surest 80 % by "
            f"{MEASURES[surest.measure]} {percent(1 - surest.accuracy_at['80'])} are wrong."
        )
    off = comparison.diversity.disagreement
    return {
        "spread": (
            f"Test accuracies of {single.count} single seeds from {low} to {high}, mean {percent(single.mean)}; "
            f"the {comparison.plan.rule} vote at {percent(vote)}.",
            "Each dot is one seed. Dots at the same place are stacked.",
        ),
        "committees": (
            f"Expected accuracy goes from {first} with one member to {last} with {curve.sizes[-1]}.",
            "Expected accuracy of a vote of k members drawn from these, with the forecast a − b/k for more. Committees "
            "of many members share most of them, so the band narrows by itself.",
        ),
        "disagreement": (
            f"Matrix of pairwise disagreement; on average two members part on {percent(off or 0)} of samples.",
            "Share of test samples that two members decide differently.",
        ),
        "reliability": (
            f"Accuracy against confidence: calibration error of the {calibration.rule} vote {before}, with the "
            f"temperature {after}.",
            "Above the dotted line the vote is right more often than it says, below less often. Larger marks hold more "
            "samples.",
        ),
        "selective": (
            selective,
            "If only the surest samples are answered, how many of those are wrong.",
        ),
        "pictures": (
            f"Test images, each with the votes of the members: the first of {won} it saved and of {lost} it lost.",
            f"Against seed {comparison.members.chosen}, the best on validation: {won} saved, {lost} lost.",
        ),
    }[figure]


def describe_runs(runs: Sequence[tuple[str, Comparison]]) -> tuple[str, str]:
    """Return the same for the figure of several runs."""
    each = [
        f"{name}: seeds from {percent(found.members.test.accuracy.minimum)} to "
        f"{percent(found.members.test.accuracy.maximum)}"
        + (f", vote {percent(found.primary.scores.accuracy)}" if len(found.seeds) > 1 else "")
        for name, found in runs
    ]
    return (
        f"Test accuracies by run. {'; '.join(each)}.",
        "Each dot is one seed, the stroke their mean; the diamond is the vote, with Wilson's interval. Runs stand in "
        "the order in which they were named; picking the best of them here would be a choice made on test data.",
    )
