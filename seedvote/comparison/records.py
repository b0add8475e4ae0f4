"""What a comparison consists of.

The fields are the keys of ``comparison.json`` (docs/comparison.md lists them). Accuracies, differences and their
intervals are fractions in 0 .. 1, never per cent. A number that is not defined is ``None``, with a reason beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seedvote.stats import (
    AgreementBin,
    BeatsSeed,
    CommitteeDifference,
    Components,
    Diversity,
    Forecast,
    Interval,
    McNemar,
    Outvoted,
    ProcedureDifference,
    ReliabilityBin,
    Scores,
    SeedSpread,
    SelectionEffect,
    Summary,
)

Integers = NDArray[np.int64]
NOT_WRITTEN = {"written": False}


@dataclass(frozen=True)
class Plan:
    """What is fixed before test data is read.

    rule: the primary vote, one of ``seedvote.voting.RULES``. tie: who wins a tie. level: of every interval.
    resampling_seed: of every bootstrap and every random committee.
    """

    rule: str = "soft"
    tie: str = "probability"
    level: float = 0.95
    resampling_seed: int = 0


@dataclass(frozen=True)
class MemberScores:
    """One member alone; interval: Wilson's, of its test accuracy."""

    seed: int
    validation: Scores
    test: Scores
    interval: Interval


@dataclass(frozen=True)
class ScoreSummary:
    """How each score spreads over the members."""

    accuracy: Summary
    negative_log_likelihood: Summary
    brier: Summary
    expected_calibration_error: Summary

    @property
    def means(self) -> Scores:
        """The mean member's scores."""
        return Scores(
            self.accuracy.mean,
            self.negative_log_likelihood.mean,
            self.brier.mean,
            self.expected_calibration_error.mean,
        )


@dataclass(frozen=True)
class BestOnTest:
    """The member that happens to be best on test: a selection effect, which no choice may rest on."""

    seed: int
    accuracy: float
    effect: SelectionEffect


@dataclass(frozen=True)
class Members:
    """Single seeds. chosen: seed of the member chosen on validation (accuracy, then loss, then the lowest seed)."""

    each: tuple[MemberScores, ...]
    validation: ScoreSummary
    test: ScoreSummary
    chosen: int
    best_on_test: BestOnTest


@dataclass(frozen=True)
class RuleScores:
    """Scores of a vote, as ``stats.Scores`` has them; accuracy is that of its decisions, an abstention being wrong.

    All but accuracy are ``None``, with the reason, where the rule has no probabilities.
    """

    accuracy: float
    negative_log_likelihood: float | None
    brier: float | None
    expected_calibration_error: float | None
    reason: str | None


@dataclass(frozen=True)
class VoteScores:
    """One voting rule on test.

    primary: whether it is the rule named beforehand. interval: Wilson's, of the accuracy. gain: against the mean
    member. p_holm: the gain's p-value, corrected for all secondary rules that were tried; ``None`` for the primary one.
    chosen: against the member chosen on validation. weights: of the members, where the rule has any.
    """

    rule: str
    primary: bool
    scores: RuleScores
    interval: Interval
    tied: int
    abstained: int
    gain: CommitteeDifference
    p_holm: float | None
    chosen: McNemar
    weights: tuple[float, ...] | None

    @property
    def name(self) -> str:
        """What the vote is called in tables."""
        return f"{self.rule} vote" + (" (primary)" if self.primary else "")


@dataclass(frozen=True)
class Spread:
    """Where the members' differences come from."""

    accuracy: SeedSpread
    components: Components


@dataclass(frozen=True)
class CommitteeCurve:
    """Expected accuracy of a vote of k of the M members.

    deviation: over the committees of k that were looked at; ``None`` where there is one, or where all were taken
    together (majority). standard_error: over test samples. worthwhile: the smallest k within 0.1 points of all M.
    """

    sizes: tuple[int, ...]
    accuracy: tuple[float, ...]
    deviation: tuple[float | None, ...]
    standard_error: tuple[float | None, ...]
    committees: tuple[int, ...]
    exact: bool
    worthwhile: int


@dataclass(frozen=True)
class Pooled:
    """Calibration of the vote by ``rule``; the temperature is fitted on validation, after pooling.

    All but ``rule`` are ``None``, with the reason, where the rule has no probabilities.
    """

    rule: str
    temperature: float | None
    at_bound: bool | None
    before: Scores | None
    after: Scores | None
    reliability_before: tuple[ReliabilityBin, ...] | None
    reliability_after: tuple[ReliabilityBin, ...] | None
    reason: str | None


@dataclass(frozen=True)
class Selective:
    """The vote by ``rule`` answering only where it is sure by one measure.

    area: under risk against coverage (AURC); excess_area: above the best possible order. coverage, risk: the curve.
    accuracy_at: accuracy on the surest 50, 80, 90, 95 and 100 %.
    """

    rule: str
    measure: str
    area: float
    excess_area: float
    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    accuracy_at: dict[str, float]


@dataclass(frozen=True)
class Cost:
    """Seconds that were measured, on one machine after the other, and how they add up.

    training: of each member. inference: of each member on the test split, transfers included. The vote costs the
    sums. engines, devices: where training and inference ran.
    """

    training: Summary
    training_total: float
    inference: Summary
    inference_total: float
    samples: int
    engines: tuple[str, ...]
    training_devices: tuple[str, ...]
    inference_devices: tuple[str, ...]


@dataclass(frozen=True)
class ClassGain:
    """One class. single, vote: recall; difference: vote minus single; p_value: sign-flip; p_holm: over all classes."""

    label: int
    name: str
    support: int
    single: float | None
    vote: float | None
    difference: float | None
    p_value: float | None
    p_holm: float | None
    reason: str | None


@dataclass(frozen=True)
class Confusion:
    """How many samples of class ``true`` were decided as ``decided``: mean over single seeds, and by the vote."""

    true: int
    decided: int
    single: float
    vote: int


@dataclass(frozen=True, eq=False)
class Samples:
    """Decisions on test, for pictures. member_labels: ``[M, S]``. vote_labels, targets: ``[S]``."""

    member_labels: Integers
    vote_labels: Integers
    targets: Integers


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything about one run; see the fields' records.

    plan: the primary vote and the level, fixed beforehand. calibration_bins: equal-width bins behind every calibration
    error. votes: the primary first. rules_left_out: secondary rules that were not tried, with the reason. beats_seed,
    procedure, curve, forecast, calibration, selective, per_class, confusions, outvoted: of the primary vote.
    curve_plurality: of a plurality with ties split evenly, exact over all committees; ``None`` for over 1,000 members.
    measures_left_out: ways to be sure that the primary vote does not have, with the reason.
    """

    seeds: tuple[int, ...]
    classes: tuple[str, ...]
    samples: dict[str, int]
    plan: Plan
    calibration_bins: int
    members: Members
    votes: tuple[VoteScores, ...]
    rules_left_out: dict[str, str]
    beats_seed: BeatsSeed
    procedure: ProcedureDifference
    spread: Spread
    curve: CommitteeCurve
    curve_on_validation: CommitteeCurve
    curve_plurality: CommitteeCurve | None
    forecast: Forecast
    diversity: Diversity
    agreement: tuple[AgreementBin, ...]
    calibration: Pooled
    selective: tuple[Selective, ...]
    measures_left_out: dict[str, str]
    cost: Cost
    per_class: tuple[ClassGain, ...]
    confusions: tuple[Confusion, ...]
    outvoted: Outvoted
    decisions: Samples = field(metadata=NOT_WRITTEN)

    @property
    def primary(self) -> VoteScores:
        """The vote by the rule that was named beforehand."""
        return self.votes[0]

    @property
    def chosen(self) -> MemberScores:
        """The member chosen on validation."""
        return next(member for member in self.members.each if member.seed == self.members.chosen)


@dataclass(frozen=True)
class Rival:
    """Another run on the same data, or several as one committee, tested against this run's primary vote.

    runs: their names. chosen, chosen_run: the member that is best on validation. against_members: this vote minus
    the mean of the rival's members. against_vote: this vote minus the rival's vote by the same rule. against_chosen:
    this vote and the rival's member chosen on validation. training_ratio, inference_ratio: what this vote costs, as a
    multiple of one rival member and of the rival's vote.
    """

    runs: tuple[str, ...]
    members: int
    accuracy: Summary
    vote_accuracy: float
    chosen: int
    chosen_run: str
    against_members: CommitteeDifference
    against_vote: CommitteeDifference
    against_chosen: McNemar
    training_ratio: dict[str, float | None]
    inference_ratio: dict[str, float | None]
    cost: Cost
