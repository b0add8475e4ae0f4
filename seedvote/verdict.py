"""A comparison in plain words: what the vote is worth, how sure that is, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seedvote.comparison import Comparison, Rival
from seedvote.errors import listed
from seedvote.report import SAMPLE, percent
from seedvote.stats import Interval

_FEW_SEEDS = 30
GAIN, NO_GAIN, LOSS, UNDEFINED = "gain", "no gain", "loss", "not defined"


@dataclass(frozen=True)
class Verdict:
    """What a comparison comes to.

    committee, procedure: ``gain``, ``no gain``, ``loss`` or ``not defined``, for these members on these samples and
    for a fresh committee against a fresh seed. headline: one sentence. The other fields are one or two sentences each.
    """

    committee: str
    procedure: str
    headline: str
    fresh: str
    chosen: str
    how_many: str
    spread: str
    odds: str
    best_on_test: str
    cost: str


def verdict(comparison: Comparison, sample: bool = False) -> Verdict:
    """Put a comparison into words; a difference counts if its p-value and its interval both say so.

    sample: the data was cut down, which the headline then says first.
    """
    gain, procedure = comparison.primary.gain, comparison.procedure
    alone = len(comparison.seeds) == 1
    committee = UNDEFINED if alone else _outcome(gain.difference, gain.interval, gain.p_value)
    fresh = UNDEFINED
    if procedure.p_value is not None:
        fresh = _outcome(procedure.difference, procedure.interval, procedure.p_value)
    headline = _headline(comparison, committee)
    return Verdict(
        committee,
        fresh,
        f"{SAMPLE[0].upper()}{SAMPLE[1:]}: {headline}" if sample else headline,
        _fresh(comparison, committee, fresh),
        _chosen(comparison),
        _how_many(comparison, committee),
        _spread(comparison),
        _odds(comparison),
        _best_on_test(comparison),
        _cost(comparison),
    )


def rival_sentences(comparison: Comparison, rival: Rival, name: str) -> tuple[str, ...]:
    """Say how this run's vote does against another run, and at what cost."""
    vote = f"the {comparison.plan.rule} vote of {len(comparison.seeds)}"
    lines = []
    against = [(rival.against_members, f"a single seed of {name!r} ({percent(rival.accuracy.mean)} on average)")]
    if rival.members > 1:
        text = f"the {comparison.plan.rule} vote of {rival.members} of {name!r} ({percent(rival.vote_accuracy)})"
        against.append((rival.against_vote, text))
    for difference, who in against:
        outcome = _outcome(difference.difference, difference.interval, difference.p_value)
        what = {GAIN: "beats", LOSS: "is beaten by", NO_GAIN: "shows no difference from"}[outcome]
        lines.append(
            f"{vote[0].upper()}{vote[1:]} {what} {who}: {signed(difference.difference)} points "
            f"({interval_text(difference.interval)}, {p_text(difference.p_value)})."
        )
    ratios = [
        f"{ratio['of_one_member']:.3g} times the {kind}"
        for kind, ratio in (("training", rival.training_ratio), ("inference", rival.inference_ratio))
        if ratio["of_one_member"] is not None
    ]
    if ratios:
        line = f"It takes {' and '.join(ratios)} seconds of one seed of {name!r}"
        votes = [rival.training_ratio["of_the_vote"], rival.inference_ratio["of_the_vote"]]
        shares = [f"{ratio:.3g}" for ratio in votes if ratio is not None]
        lines.append(
            f"{line}, and {' and '.join(shares)} times those of its vote." if rival.members > 1 else f"{line}."
        )
    return tuple(lines)


def runs_headline(runs: Sequence[tuple[str, Comparison]], corrected: Mapping[str, float]) -> str:
    """Say in which of several runs the vote gains; corrected: Holm's p-values, by run, where there is a vote."""
    found: dict[str, list[str]] = {GAIN: [], NO_GAIN: [], LOSS: [], UNDEFINED: []}
    for name, comparison in runs:
        outcome = UNDEFINED
        if name in corrected:
            gain = comparison.primary.gain
            outcome = _outcome(gain.difference, gain.interval, corrected[name])
        found[outcome].append(name)
    texts = {
        GAIN: "it beats a single seed in {count} ({names})",
        NO_GAIN: "no gain is shown in {count} ({names})",
        LOSS: "it loses to a single seed in {count} ({names})",
        UNDEFINED: "{count} ({names}) has one member and no vote",
    }
    if len(found[UNDEFINED]) > 1:
        texts[UNDEFINED] = "{count} ({names}) have one member each and no vote"
    parts = [texts[kind].format(count=len(names), names=listed(names)) for kind, names in found.items() if names]
    samples = runs[0][1].samples["test"]
    return f"The {runs[0][1].plan.rule} vote in {len(runs)} runs, {samples:,} test samples: {'; '.join(parts)}."


def signed(difference: float, decimals: int = 2) -> str:
    """Return a difference of fractions in points with its sign, and never as minus nothing."""
    text = f"{100 * difference:+.{decimals}f}"
    return f"{0:.{decimals}f}" if float(text) == 0 else text.replace("-", "−")


def interval_text(interval: Interval) -> str:
    """Return ``95 % interval 0.09 to 0.27`` of a difference in points, or that it is not defined."""
    if interval.lower is None or interval.upper is None:
        return f"{100 * interval.level:g} % interval not defined"
    return f"{100 * interval.level:g} % interval {signed(interval.lower)} to {signed(interval.upper)}"


def p_text(p_value: float) -> str:
    """Return ``p = 0.03``, or ``p < 0.001``."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}" if p_value < 0.1 else f"p = {p_value:.2f}"


def duration(seconds: float) -> str:
    """Return seconds in the unit that a person would choose."""
    for limit, unit, size in (
        (1e-4, "µs", 1e-6),
        (0.0995, "ms", 1e-3),
        (120, "s", 1),
        (7200, "min", 60),
        (float("inf"), "h", 3600),
    ):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    raise AssertionError(seconds)


def _outcome(difference: float, interval: Interval, p_value: float) -> str:
    if p_value >= 1 - interval.level - 1e-12:
        return NO_GAIN
    if interval.lower is not None and interval.upper is not None and interval.lower <= 0 <= interval.upper:
        return NO_GAIN
    return GAIN if difference > 0 else LOSS


def _headline(comparison: Comparison, outcome: str) -> str:
    count, samples = len(comparison.seeds), f"{comparison.samples['test']:,}"
    if outcome == UNDEFINED:
        accuracy = percent(comparison.primary.scores.accuracy)
        return (
            f"One member has nobody to vote with: it scores {accuracy} on these {samples} test samples. "
            "Train more seeds to compare them with their vote."
        )
    gain, vote = comparison.primary.gain, f"the {comparison.plan.rule} vote of {count}"
    single = percent(comparison.members.test.accuracy.mean)
    how_sure = f"{interval_text(gain.interval)}, {p_text(gain.p_value)}"
    scores = f"{percent(comparison.primary.scores.accuracy)} against {single} for the mean seed"
    if outcome == NO_GAIN and gain.differing == 0:
        return f"No gain: {vote} decides like every one of its members on these {samples} test samples ({single})."
    if outcome == NO_GAIN:
        return (
            f"No gain: the difference between {vote} and a single seed, {signed(gain.difference)} points, could be "
            f"chance ({how_sure}) on these {samples} test samples: {scores}."
        )
    verb = "beats" if outcome == GAIN else "loses to"
    return (
        f"{vote[0].upper()}{vote[1:]} {verb} a single seed by {abs(100 * gain.difference):.2f} points ({how_sure}) "
        f"on these {samples} test samples: {scores}."
    )


def _fresh(comparison: Comparison, committee: str, fresh: str) -> str:
    procedure = comparison.procedure
    if fresh == UNDEFINED:
        return f"What a fresh committee would do cannot be said: {procedure.reason}."
    expected = f"{signed(procedure.difference)} points"
    both = f"{interval_text(procedure.interval)} with seeds and samples both random"
    size = procedure.committee_size
    share = procedure.seed_share or 0.0
    rough = (
        f" {100 * share:.0f} % of that variance is other seeds, which {size} are few to judge by: take the interval "
        "as rough."
        if share > 0.5 and size < _FEW_SEEDS
        else ""
    )
    if fresh == NO_GAIN:
        start = "But with" if committee in (GAIN, LOSS) else "With"
        return (
            f"{start} other seeds it may come out otherwise: a fresh committee of {size} against a fresh seed is "
            f"expected at {expected} ({both}), which does not settle it.{rough}"
        )
    verb = "beat" if fresh == GAIN else "lose to"
    return f"A fresh committee of {size} can be expected to {verb} a fresh seed too: {expected} ({both}).{rough}"


def _chosen(comparison: Comparison) -> str:
    chosen, test = comparison.chosen, comparison.primary.chosen
    if len(comparison.seeds) == 1:
        return ""
    lead = (
        f"Against seed {chosen.seed}, the best on validation ({percent(chosen.test.accuracy)} here), the vote wins "
        f"{test.won} and loses {test.lost} samples"
    )
    # The exact test rejects too seldom: the mid-p value decides, the careful one stands beside it.
    how_sure = f"McNemar mid-p {p_text(test.p_mid)}, exact {p_text(test.p_exact)}"
    if test.p_mid < 1 - comparison.plan.level:
        return f"{lead}: it is {'better' if test.won > test.lost else 'worse'} ({how_sure})."
    return f"{lead}: no difference is shown ({how_sure})."


def _how_many(comparison: Comparison, outcome: str) -> str:
    count, found = len(comparison.seeds), comparison.curve
    if count == 1:
        return ""
    if outcome == GAIN:
        wanted = comparison.curve_on_validation.worthwhile
        reached = percent(found.accuracy[found.sizes.index(wanted)])
        come, they = ("comes", "it reaches") if wanted == 1 else ("come", "they reach")
        within = f"which {come} within 0.1 points of all {count} on validation" if wanted < count else "by validation"
        text = f"How many seeds are worth it: {wanted}, {within}; {they} {reached} on test"
    else:
        text = "How many seeds are worth it: one, as no gain is shown for more; it reaches "
        text += f"{percent(found.accuracy[0])} on test"
    text += f", {count} reach {percent(found.accuracy[-1])}" if outcome != GAIN or wanted < count else ""
    ahead = comparison.forecast
    if ahead.accuracy is None or ahead.intervals is None:
        return text + "."
    interval = ahead.intervals[0]
    span = ""
    if interval.lower is not None and interval.upper is not None:
        span = f" ({100 * interval.lower:.2f} to {100 * interval.upper:.2f} %)"
    return f"{text}, and {ahead.sizes[0]} are forecast to reach {percent(ahead.accuracy[0])}{span}."


def _spread(comparison: Comparison) -> str:
    spread = comparison.spread.accuracy
    if spread.observed is None or spread.real is None or spread.noise is None or spread.cochran_p is None:
        return f"How far seeds differ cannot be said: {spread.reason}."
    observed, real = 100 * spread.observed**0.5, 100 * spread.real**0.5
    differ = "differ" if spread.cochran_p < 1 - comparison.plan.level else "are not shown to differ"
    return (
        f"Seeds spread by ± {observed:.2f} points (SD). Of this ± {real:.2f} would remain on an endless test set; "
        "the rest is the luck of these samples. As a whole the seeds "
        f"{differ} (Cochran's Q, {p_text(spread.cochran_p)})."
    )


def _odds(comparison: Comparison) -> str:
    odds, count = comparison.beats_seed, len(comparison.seeds)
    if count == 1:
        return ""
    span = ""
    if odds.interval.lower is not None and odds.interval.upper is not None:
        span = f" ({odds.interval.lower:.2f} to {odds.interval.upper:.2f} over fresh samples)"
    return (
        f"The vote beats {odds.below} of its {count} members and equals {odds.equal}: the chance to beat a random one "
        f"is {odds.probability:.2f}{span}."
    )


def _best_on_test(comparison: Comparison) -> str:
    best = comparison.members.best_on_test
    effect = best.effect
    if effect.expected_excess is None or effect.expected_luck is None:
        return ""
    return (
        f"Selection effect: the best seed on test, {best.seed} with {percent(best.accuracy)}, lies "
        f"{100 * effect.observed_excess:.2f} points above the mean; picking the best of {effect.members} is expected "
        f"to show {100 * effect.expected_excess:.2f}, of which {100 * effect.expected_luck:.2f} are luck."
    )


def _cost(comparison: Comparison) -> str:
    cost, count = comparison.cost, len(comparison.seeds)
    if count == 1:
        return (
            f"Cost: {duration(cost.training_total)} of training, {duration(cost.inference_total)} for the test split."
        )
    return (
        f"Cost: {duration(cost.training_total)} of training against {duration(cost.training.mean)} for one seed, and "
        f"{duration(cost.inference_total)} against {duration(cost.inference.mean)} to predict {cost.samples:,} samples."
    )
