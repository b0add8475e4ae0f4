"""From the members' logits on validation and test to everything that is known about a run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seedvote import stats, voting
from seedvote.comparison import rules
from seedvote.comparison.records import (
    BestOnTest,
    ClassGain,
    CommitteeCurve,
    Comparison,
    Confusion,
    Cost,
    Members,
    MemberScores,
    Plan,
    Pooled,
    Samples,
    ScoreSummary,
    Selective,
    Spread,
    VoteScores,
)
from seedvote.errors import unknown

CALIBRATION_BINS = 15
SELECTIVE_COVERAGES = (0.5, 0.8, 0.9, 0.95, 1.0)
_CURVE_POINTS = 200
_SLOW_RULES = ("median", "trimmed_mean", "borda", "weighted")
_QUICK_ELEMENTS = 2**25
_THREADS = 2
_DOUBLE_ELEMENTS = 2**27  # 1 GiB of float64; larger comparisons keep probabilities in float32

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Logits = NDArray[np.floating]


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
    rule, level, seed = plan.rule, plan.level, plan.resampling_seed
    if rule not in rules.PRIMARY_RULES:
        raise ValueError(unknown("vote", rule, rules.PRIMARY_RULES))
    targets = np.asarray(test[1], dtype=np.int64)
    on_validation, on_test = _alone(validation[0], validation[1]), _alone(test[0], targets)
    own, labels = on_test.probabilities, on_test.labels
    right = labels == targets
    members = _members(on_validation, on_test, targets, seeds, level)
    chosen_rules, left_out = _order(rule, test[0].size)
    decided = _decided(chosen_rules, validation, test[0], plan.tie, seeds)
    primary = decided[rule][0]
    vote_right = primary.labels == targets
    committees = rules.committees(plan, own, labels, targets)
    curve_validation = rules.curve(plan, on_validation.probabilities, on_validation.labels, validation[1])
    per_class, confusions = _per_class(labels, primary.labels, targets, classes)
    soft = decided["soft"][0]
    return Comparison(
        seeds=tuple(int(seed) for seed in seeds),
        classes=tuple(classes),
        samples={"validation": len(validation[1]), "test": len(targets)},
        plan=plan,
        calibration_bins=CALIBRATION_BINS,
        members=members,
        rules_left_out=left_out,
        votes=_votes(decided, right, seeds.index(members.chosen), targets, level, seed),
        beats_seed=stats.beats_random_seed(right, vote_right, level=level, seed=seed),
        procedure=stats.procedure_difference(
            right, vote_right, committees.halves, committees.halves_right, level=level
        ),
        spread=Spread(stats.seed_spread(right, seed=seed), stats.variance_components(right)),
        curve=_curve(committees.curve),
        curve_on_validation=_curve(curve_validation),
        forecast=stats.forecast(committees.curve, committees.without, level=level),
        diversity=stats.diversity(labels, targets),
        agreement=stats.agreement_table(labels, primary.labels, targets),
        calibration=_calibration(on_validation.probabilities, validation[1], soft.probabilities, targets),
        selective=_selective(own, soft.labels == targets),
        cost=cost,
        per_class=per_class,
        confusions=confusions,
        outvoted=stats.outvoted(right, vote_right),
        decisions=Samples(labels, primary.labels, targets),
    )


def _order(rule: str, elements: int) -> tuple[list[str], dict[str, str]]:
    """The primary rule first, then the other of soft and majority, then the rest; and which are left out, and why."""
    order = list(dict.fromkeys([rule, *rules.PRIMARY_RULES, *voting.RULES]))
    if elements <= _QUICK_ELEMENTS:
        return order, {}
    reason = "would take minutes for so many members, samples and classes; `predict` has it"
    return [name for name in order if name not in _SLOW_RULES], dict.fromkeys(_SLOW_RULES, reason)


@dataclass(frozen=True, eq=False)
class _Alone:
    """Each member by itself on one split: probabilities ``[M, S, C]``, decisions ``[M, S]`` and scores."""

    probabilities: NDArray[np.floating]
    labels: Integers
    scores: tuple[stats.Scores, ...]


def _alone(logits: Logits, targets: Integers) -> _Alone:
    kind = np.float64 if logits.size <= _DOUBLE_ELEMENTS else np.float32
    probabilities: NDArray[np.floating] = np.empty(logits.shape, kind)
    labels = np.empty(logits.shape[:2], dtype=np.int64)

    def fill(member: int) -> stats.Scores:
        values = probabilities[member] if kind is np.float64 else np.empty(logits.shape[1:])
        _softmax(logits[member], values)
        probabilities[member], labels[member] = values, logits[member].argmax(axis=1)
        return stats.score(probabilities[member], targets, bins=CALIBRATION_BINS)

    with ThreadPoolExecutor(_THREADS) as pool:
        scores = tuple(pool.map(fill, range(len(logits))))
    return _Alone(probabilities, labels, scores)


def _softmax(logits: Logits, into: NDArray[np.floating]) -> None:
    """``scipy.special.softmax`` over the last axis, in place: fresh memory would take longer than the sums."""
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=into, dtype=np.float64)
    np.exp(into, out=into)
    into /= into.sum(axis=1, keepdims=True)


def _members(on_validation: _Alone, on_test: _Alone, targets: Integers, seeds: Sequence[int], level: float) -> Members:
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
) -> dict[str, tuple[voting.Vote, Floats | None]]:
    """The vote by each rule, and the weights of its members where it has any."""
    weights = {name: voting.stacking_weights(*validation, seeds=seeds) for name in names if name == "weighted"}
    votes = voting.vote_by_each(test, names, tie=tie, weights=weights, seeds=seeds)
    return {name: (vote, weights.get(name)) for name, vote in votes.items()}


def _votes(
    decided: dict[str, tuple[voting.Vote, Floats | None]],
    right: NDArray[np.bool_],
    chosen: int,
    targets: Integers,
    level: float,
    seed: int,
) -> tuple[VoteScores, ...]:
    gains = {
        rule: stats.committee_difference(right, vote.labels == targets, level=level, seed=seed)
        for rule, (vote, _) in decided.items()
    }
    primary, *secondary = decided
    corrected = dict(zip(secondary, stats.holm([gains[rule].p_value for rule in secondary]), strict=True))
    found = []
    for rule, (vote, weights) in decided.items():
        hits = vote.labels == targets
        scores = stats.score(vote.probabilities, targets, bins=CALIBRATION_BINS)
        found.append(
            VoteScores(
                rule=rule,
                primary=rule == primary,
                # The rule's own tie break decides, not the arg max.
                scores=stats.Scores(
                    float(hits.mean()), scores.negative_log_likelihood, scores.brier, scores.expected_calibration_error
                ),
                interval=stats.wilson(int(hits.sum()), len(targets), level),
                tied=int(vote.tied.sum()),
                abstained=int((vote.labels == voting.ABSTAINED).sum()),
                gain=gains[rule],
                p_holm=corrected.get(rule),
                chosen=stats.mcnemar(hits, right[chosen]),
                weights=None if weights is None else tuple((weights / weights.sum()).tolist()),
            )
        )
    return tuple(found)


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


def _calibration(own: Logits, own_targets: Integers, pooled: Floats, targets: Integers) -> Pooled:
    found = stats.calibrate(own.mean(axis=0, dtype=np.float64), own_targets, pooled, targets)
    return Pooled(
        found.temperature,
        found.at_bound,
        found.before,
        found.after,
        stats.reliability(pooled, targets, bins=CALIBRATION_BINS),
        stats.reliability(found.probabilities, targets, bins=CALIBRATION_BINS),
    )


def _selective(own: Logits, right: NDArray[np.bool_]) -> tuple[Selective, ...]:
    confidence = stats.confidence_scores(own)
    places = np.unique(np.linspace(0, len(right) - 1, min(_CURVE_POINTS, len(right))).astype(int))
    found = []
    for measure in ("max_probability", "negative_entropy", "negative_mutual_information", "agreement"):
        curve = stats.risk_coverage(getattr(confidence, measure), right)
        found.append(
            Selective(
                measure,
                curve.area,
                curve.excess_area,
                tuple(curve.coverage[places].tolist()),
                tuple(curve.risk[places].tolist()),
                {f"{100 * part:g}": stats.accuracy_at_coverage(curve, part) for part in SELECTIVE_COVERAGES},
            )
        )
    return tuple(found)


def _per_class(
    labels: Integers, decided: Integers, targets: Integers, classes: Sequence[str]
) -> tuple[tuple[ClassGain, ...], tuple[Confusion, ...]]:
    found = stats.per_class(labels, decided, targets, classes=len(classes))
    differences = (decided == targets).astype(np.float64) - (labels == targets).mean(axis=0)
    p_values = {
        label: stats.sign_flip(differences[targets == label]) for label, count in enumerate(found.support) if count
    }
    corrected = dict(zip(p_values, stats.holm(list(p_values.values())), strict=True))
    gains = tuple(
        ClassGain(
            label,
            classes[label],
            count,
            found.single[label],
            found.vote[label],
            found.difference[label],
            p_values.get(label),
            corrected.get(label),
            None if count else "no test sample of this class",
        )
        for label, count in enumerate(found.support)
    )
    single, vote = found.single_confusion.copy(), found.vote_confusion.copy()
    np.fill_diagonal(single, 0)
    np.fill_diagonal(vote, 0)
    cells = np.argwhere((single > 0) | (vote > 0)).tolist()
    confusions = [Confusion(row, column, float(single[row, column]), int(vote[row, column])) for row, column in cells]
    confusions.sort(key=lambda cell: (-abs(cell.vote - cell.single), cell.true, cell.decided))
    return gains, tuple(confusions)
