"""A comparison for the terminal: the verdict, one table, and what to know when reading it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from seedvote.comparison import Comparison, Rival, RuleScores, VoteScores
from seedvote.report import table
from seedvote.stats import Interval, Scores
from seedvote.verdict import Verdict, duration, p_text, rival_sentences, signed

WIDTH = 108


def summary(comparison: Comparison, verdict: Verdict, rivals: Sequence[tuple[str, Rival]] = ()) -> str:
    """Return the whole of what ``compare`` prints about one run, at most ``WIDTH`` columns wide."""
    words = [verdict.headline, verdict.fresh, verdict.chosen, verdict.how_many, verdict.cost]
    for name, rival in rivals:
        words += rival_sentences(comparison, rival, name)
    parts = ["\n".join(_wrapped(text) for text in words if text), _scores(comparison)]
    if len(comparison.seeds) > 1:
        parts += [_committees(comparison), _notes(comparison, verdict)]
    return "\n\n".join(parts)


def runs_summary(headline: str, runs: Sequence[tuple[str, Comparison]], corrected: Mapping[str, float]) -> str:
    """Return what ``compare`` prints about several runs; corrected: Holm's p-values, by run, where there is a vote."""
    cells, costs = [], []
    for name, found in runs:
        single, cost = found.members.test.accuracy, found.cost
        row = [name, str(len(found.seeds)), _accuracy(single.mean, single.deviation)]
        if name in corrected:
            row += [
                f"{100 * found.primary.scores.accuracy:.2f} %",
                _gain(found.primary.gain.difference, found.primary.gain.interval),
                _p(corrected[name]),
                _span(found.procedure.interval, points=True),
            ]
        else:
            row += ["-"] * 4
        cells.append(row)
        pairs = ((cost.training.mean, cost.training_total), (cost.inference.mean, cost.inference_total))
        vote = name in corrected
        costs.append(
            [name, *(text for one, all_ in pairs for text in (duration(one), duration(all_) if vote else "-"))]
        )
    header = ["run", "n", "single seed", "vote", "gain (points)", "p (Holm)", "fresh committee"]
    samples = f"{runs[0][1].cost.samples:,} test samples"
    spent = table(["seconds as measured", "training, one seed", "vote", f"{samples}, one seed", "vote"], costs)
    notes = (
        "gain: vote minus mean single seed, with its interval on these test samples; p: sign-flip, Holm-corrected for "
        "all runs. fresh committee: interval of the gain with seeds and samples both random."
    )
    return f"{_wrapped(headline)}\n\n{table(header, cells)}\n\n{spent}\n\n{_wrapped(notes)}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _scores(comparison: Comparison) -> str:
    members = comparison.members.test
    count = len(comparison.seeds)
    chosen = comparison.chosen
    rows = [_row(f"single seeds (n = {count})", members.means, members.accuracy.deviation)]
    if count > 1:
        rows.append(_row(f"seed {chosen.seed}, best on validation", chosen.test))
        rows += [_vote_row(vote) for vote in comparison.votes]
    return table(["", "accuracy", "NLL", "Brier", "ECE", "gain (points)", "p", "won:lost"], rows)


def _row(name: str, scores: Scores | RuleScores, deviation: float | None = None) -> list[str]:
    of_probabilities = (scores.negative_log_likelihood, scores.brier, scores.expected_calibration_error)
    values = ["-" if value is None else f"{value:.4f}" for value in of_probabilities]
    return [name, _accuracy(scores.accuracy, deviation), *values, *[""] * 3]


def _vote_row(vote: VoteScores) -> list[str]:
    p_value = vote.gain.p_value if vote.p_holm is None else vote.p_holm
    return [
        *_row(vote.name, vote.scores)[:5],
        _gain(vote.gain.difference, vote.gain.interval),
        _p(p_value),
        f"{vote.chosen.won}:{vote.chosen.lost}",
    ]


def _committees(comparison: Comparison) -> str:
    """Return expected accuracy by committee size, at most ten sizes, and the forecast."""
    curve, ahead = comparison.curve, comparison.forecast
    places = list(range(len(curve.sizes)))
    if len(places) > 8:
        places = sorted({0, 1, 2, len(places) - 1, *(round(i * (len(places) - 1) / 6) for i in range(7))})
    sizes = [str(curve.sizes[place]) for place in places]
    values = [f"{100 * curve.accuracy[place]:.2f}" for place in places]
    for size, value in zip(ahead.sizes, ahead.accuracy or (), strict=False):
        sizes.append(f"{size}*")
        values.append(f"{100 * value:.2f}")
    return table(["members in the vote", *sizes], [["accuracy (%)", *values]])


def _notes(comparison: Comparison, verdict: Verdict) -> str:
    single = comparison.members.test.accuracy
    share = f"{100 * comparison.plan.level:g} %"
    notes = [
        f"gain: against the mean single seed, with its {share} interval; p: sign-flip test, for rules that are not "
        f"primary Holm-corrected for all {len(comparison.votes) - 1} of them. won:lost: samples against seed "
        f"{comparison.chosen.seed}. ECE: {comparison.calibration_bins} equal bins. *: forecast.",
        f"Single seeds run from {100 * single.minimum:.2f} to {100 * single.maximum:.2f} %. {verdict.spread}",
        verdict.odds,
        verdict.best_on_test,
        _calibration(comparison),
    ]
    missing = [vote.rule for vote in comparison.votes if vote.scores.reason is not None]
    if missing:
        notes.append(f"-: {' and '.join(missing)} count votes or ranks, which are no probabilities to score.")
    if comparison.rules_left_out:
        notes.append(f"Left out for their size: {', '.join(comparison.rules_left_out)}.")
    return "\n".join(_wrapped(note) for note in notes if note)


def _calibration(comparison: Comparison) -> str:
    found = comparison.calibration
    if found.temperature is None or found.before is None or found.after is None:
        return f"Calibration of the {found.rule} vote: not defined, as {found.reason}."
    return (
        f"Calibration of the {found.rule} vote: ECE {found.before.expected_calibration_error:.4f}, after temperature "
        f"{found.temperature:.3g} (fitted on validation) {found.after.expected_calibration_error:.4f}."
    )


def _accuracy(mean: float, deviation: float | None) -> str:
    return f"{100 * mean:.2f}{'' if deviation is None else f' ± {100 * deviation:.2f}'} %"


def _gain(difference: float, interval: Interval) -> str:
    if interval.lower is None or interval.upper is None:
        return f"{signed(difference)} (-)"
    return f"{signed(difference)} ({signed(interval.lower)}, {signed(interval.upper)})"


def _span(interval: Interval, points: bool = False) -> str:
    if interval.lower is None or interval.upper is None:
        return "not defined"
    if points:
        return f"{signed(interval.lower)} to {signed(interval.upper)}"
    return f"{interval.lower:.2f} to {interval.upper:.2f}"


def _p(p_value: float) -> str:
    return p_text(p_value).removeprefix("p").removeprefix(" = ").strip()
