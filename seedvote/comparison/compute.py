"""From the members' logits on validation and test to everything that is known about a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seedvote import stats, voting
from seedvote.comparison import rules, sureness
from seedvote.comparison.alone import CALIBRATION_BINS, Alone, Integers, Logits, alone
from seedvote.comparison.classes import per_class
from seedvote.comparison.records import (
    BestOnTest,
    CommitteeCurve,
    Comparison,
    Cost,
    Members,
    MemberScores,
    Plan,
    RuleScores,
    Samples,
    ScoreSummary,
    Spread,
    VoteScores,
)
from seedvote.errors import unknown

_SLOW_RULES = ("median", "trimmed_mean", "borda", "weighted")
_QUICK_ELEMENTS = 2**25

Floats = NDArray[np.float64]
Decided = dict[str, tuple[voting.Vote, Floats | None]]


def compare(
    validation: tuple[Logits, Integers],
    test: tuple[Logits, Integers],
    *,
    seeds: Sequence[int],
    classes: Sequence[str],
    cost: Cost,
    plan: Plan | None = None,
) -> Comparison:
    """Compare the members with their votes on test; whatever is chosen or fitted is chosen or fitted on validation.

    validation, test: finite logits ``[M, S, C]`` and true classes ``[S]``. seeds: ``[M]``. classes: ``[C]``.
    plan: the primary vote, the level and seeds of resampling; all other rules are secondary, and corrected for one
    another. Raises ``ValueError`` for an unknown rule, wrong shapes and logits that are not finite.
    """
    plan = plan or Plan()
    if plan.rule not in voting.RULES:
        raise ValueError(unknown("vote", plan.rule, voting.RULES))
    targets = np.asarray(test[1], dtype=np.int64)
    on_validation, on_test = alone(*validation), alone(test[0], targets)
    labels, right = on_test.labels, on_test.labels == targets
    members = _members(on_validation, on_test, seeds, plan.level)
    chosen_rules, left_out = _order(plan.rule, test[0].size)
    decided = _decided(chosen_rules, validation, test[0], plan.tie, seeds)
    primary, weights = decided[plan.rule]
    vote_right = primary.labels == targets
    weigh = rules.weighing(on_validation, weights)
    committees = rules.committees(plan, on_test, weigh)
    of_classes, confusions = per_class(labels, primary.labels, targets, classes)
    sure, unsure = sureness.selective(plan.rule, on_test, primary)
    return Comparison(
        seeds=tuple(int(seed) for seed in seeds),
        classes=tuple(classes),
        samples={"validation": len(validation[1]), "test": len(targets)},
        plan=plan,
        calibration_bins=CALIBRATION_BINS,
        members=members,
        rules_left_out=left_out,
        votes=_votes(decided, right, seeds.index(members.chosen), targets, plan),
        beats_seed=stats.beats_random_seed(right, vote_right, level=plan.level, seed=plan.resampling_seed),
        procedure=stats.procedure_difference(
            right, vote_right, committees.halves, committees.halves_right, level=plan.level
        ),
        spread=Spread(stats.seed_spread(right, seed=plan.resampling_seed), stats.variance_components(right)),
        curve=_curve(committees.curve),
        curve_on_validation=_curve(rules.curve(plan, on_validation, weigh)),
        curve_plurality=_curve(stats.plurality_curve(labels, targets)) if len(labels) <= stats.MOST_MEMBERS else None,
        forecast=stats.forecast(committees.curve, committees.without, level=plan.level),
        diversity=stats.diversity(labels, targets),
        agreement=stats.agreement_table(labels, primary.labels, targets),
        calibration=sureness.calibration(plan, on_validation, weights, primary, targets),
        selective=sure,
        measures_left_out=unsure,
        cost=cost,
        per_class=of_classes,
        confusions=confusions,
        outvoted=stats.outvoted(right, vote_right),
        decisions=Samples(labels, primary.labels, targets),
    )


def _order(rule: str, elements: int) -> tuple[list[str], dict[str, str]]:
    """The primary rule first, then soft and majority, then the rest; and which are left out, and why."""
    order = list(dict.fromkeys([rule, *rules.QUICK_RULES, *voting.RULES]))
    slow = [name for name in _SLOW_RULES if name != rule] if elements > _QUICK_ELEMENTS else []
    reason = "would take minutes for so many members, samples and classes; `predict` has it"
    return [name for name in order if name not in slow], dict.fromkeys(slow, reason)


def _members(on_validation: Alone, on_test: Alone, seeds: Sequence[int], level: float) -> Members:
    targets = on_test.targets
    each = tuple(
        MemberScores(int(seed), before, after, stats.wilson(round(after.accuracy * len(targets)), len(targets), level))
        for seed, before, after in zip(seeds, on_validation.scores, on_test.scores, strict=True)
    )
    chosen = min(each, key=lambda one: (-one.validation.accuracy, one.validation.negative_log_likelihood, one.seed))
    best = min(each, key=lambda one: (-one.test.accuracy, one.seed))
    effect = stats.selection_effect(on_test.labels == targets)
    return Members(
        each,
        _summary(on_validation.scores),
        _summary(on_test.scores),
        chosen.seed,
        BestOnTest(best.seed, best.test.accuracy, effect),
    )


def _summary(scores: Sequence[stats.Scores]) -> ScoreSummary:
    return ScoreSummary(
        stats.summarize(each.accuracy for each in scores),
        stats.summarize(each.negative_log_likelihood for each in scores),
        stats.summarize(each.brier for each in scores),
        stats.summarize(each.expected_calibration_error for each in scores),
    )


def _decided(
    names: Sequence[str], validation: tuple[Logits, Integers], test: Logits, tie: str, seeds: Sequence[int]
) -> Decided:
    """The vote by each rule, and the weights of its members where it has any."""
    weights = {name: voting.stacking_weights(*validation, seeds=seeds) for name in names if name == "weighted"}
    votes = voting.vote_by_each(test, names, tie=tie, weights=weights, seeds=seeds)
    return {name: (vote, weights.get(name)) for name, vote in votes.items()}


def _votes(
    decided: Decided, right: NDArray[np.bool_], chosen: int, targets: Integers, plan: Plan
) -> tuple[VoteScores, ...]:
    gains = {
        rule: stats.committee_difference(right, vote.labels == targets, level=plan.level, seed=plan.resampling_seed)
        for rule, (vote, _) in decided.items()
    }
    primary, *secondary = decided
    corrected = dict(zip(secondary, stats.holm([gains[rule].p_value for rule in secondary]), strict=True))
    found = []
    for rule, (vote, weights) in decided.items():
        hits = vote.labels == targets
        found.append(
            VoteScores(
                rule=rule,
                primary=rule == primary,
                scores=_rule_scores(rule, vote, targets),
                interval=stats.wilson(int(hits.sum()), len(targets), plan.level),
                tied=int(vote.tied.sum()),
                abstained=int((vote.labels == voting.ABSTAINED).sum()),
                gain=gains[rule],
                p_holm=corrected.get(rule),
                chosen=stats.mcnemar(hits, right[chosen]),
                weights=None if weights is None else tuple((weights / weights.sum()).tolist()),
            )
        )
    return tuple(found)


def _rule_scores(rule: str, vote: voting.Vote, targets: Integers) -> RuleScores:
    accuracy = float((vote.labels == targets).mean())  # the rule's own tie break decides, not the arg max
    if rule in rules.NO_PROBABILITIES:
        return RuleScores(accuracy, None, None, None, rules.NO_PROBABILITIES[rule])
    found = stats.score(vote.probabilities, targets, bins=CALIBRATION_BINS)
    return RuleScores(accuracy, found.negative_log_likelihood, found.brier, found.expected_calibration_error, None)


def _curve(curve: stats.Curve) -> CommitteeCurve:
    samples = curve.per_sample.shape[1]
    errors = [float(row.std(ddof=1) / samples**0.5) if samples > 1 else None for row in curve.per_sample]
    return CommitteeCurve(
        tuple(curve.sizes.tolist()),
        tuple(curve.accuracy.tolist()),
        curve.deviation,
        tuple(errors),
        curve.subsets,
        curve.exact,
        stats.worthwhile(curve),
    )
