"""The sections of the page of one run: which sentences, figures and tables stand under which heading."""

from __future__ import annotations

from collections.abc import Sequence

from seedvote.comparison import Comparison, Rival
from seedvote.report import percent
from seedvote.sections import sureness
from seedvote.sections.classes import classes
from seedvote.sections.rivals import cost, rival_sections
from seedvote.sections.tables import (
    LONGEST_TABLE,
    NONE,
    UNDEFINED,
    Section,
    Table,
    p_cell,
    percents_cell,
    points_cell,
    score_cells,
    score_row,
    summary_cells,
)
from seedvote.verdict import Verdict, signed

_WHY_NO_SCORES = "counts of votes and ranks are no probabilities"
_DIVERSITY = "How differently the members decide"
_ONLY_VOTES = (
    "Where the spread comes from",
    "How many seeds",
    _DIVERSITY,
    "Samples the vote saved and lost",
)


def build(comparison: Comparison, verdict: Verdict, rivals: Sequence[tuple[str, Rival]] = ()) -> list[Section]:
    """Return the sections of the page in their order."""
    several = len(comparison.seeds) > 1
    found = [
        Section("Scores", [verdict.odds, verdict.best_on_test] if several else [], ["spread"], _scores(comparison)),
        Section("Where the spread comes from", [verdict.spread], [], _spread(comparison)),
        Section("How many seeds", [verdict.how_many], ["committees"], [_committees(comparison)]),
        _diversity(comparison),
        sureness.calibration(comparison),
        sureness.selective(comparison),
        Section("Samples the vote saved and lost", [_saved(comparison)], ["pictures"]),
        classes(comparison),
        *rival_sections(comparison, rivals),
        cost(comparison, verdict, rivals),
    ]
    return [section for section in found if several or section.title not in _ONLY_VOTES]


def _scores(comparison: Comparison) -> list[Table]:
    members, chosen = comparison.members, comparison.chosen
    header: tuple[str, ...] = ("", "accuracy", "interval (%)", "NLL", "Brier", "ECE", "ties")
    rows = [["mean single seed", *score_cells(members.test.means)[:1], "", *score_cells(members.test.means)[1:], ""]]
    several = len(comparison.seeds) > 1
    if several:
        rows.append([*score_row(f"seed {chosen.seed}, best on validation", chosen.test, chosen.interval), ""])
        rows += [[*score_row(vote.name, vote.scores, vote.interval), str(vote.tied)] for vote in comparison.votes]
    level = f"{100 * comparison.plan.level:g} %"
    caption = f"Scores on test; intervals are Wilson's, {level}"
    missing = [vote.rule for vote in comparison.votes if vote.scores.reason is not None] if several else []
    if missing:
        caption += f". NLL, Brier and ECE of {' and '.join(missing)} are {UNDEFINED}: {_WHY_NO_SCORES}"
    tables = [Table(caption, header, rows, [2] if several else [])]
    if several:
        gains = [
            [
                vote.name,
                signed(vote.gain.difference),
                points_cell(vote.gain.interval),
                p_cell(vote.gain.p_value if vote.p_holm is None else vote.p_holm),
                f"{vote.chosen.won} : {vote.chosen.lost}",
                p_cell(vote.chosen.p_mid),
            ]
            for vote in comparison.votes
        ]
        header = ("", "gain (points)", level, "p", "won : lost", "McNemar p")
        caption = (
            f"Votes against single seeds; p of rules that are not primary is Holm's, for {len(gains) - 1} rules; "
            "McNemar's is the mid-p value"
        )
        tables.append(Table(caption, header, gains, [0]))
    spread = [
        [name, *summary_cells(getattr(members.test, key), factor)]
        for name, key, factor in (
            ("accuracy (%)", "accuracy", 100),
            ("NLL", "negative_log_likelihood", 1),
            ("Brier", "brier", 1),
            ("ECE", "expected_calibration_error", 1),
        )
    ]
    tables.append(Table(f"Single seeds, n = {len(members.each)}", ("", "mean", "SD", "min", "max"), spread))
    each = [
        [
            f"seed {member.seed}",
            percent(member.validation.accuracy),
            percent(member.test.accuracy),
            percents_cell(member.interval),
            f"{member.test.negative_log_likelihood:.4f}",
        ]
        for member in members.each[:LONGEST_TABLE]
    ]
    more = f", the first {LONGEST_TABLE} of {len(members.each)}" if len(members.each) > LONGEST_TABLE else ""
    tables.append(Table(f"Each seed{more}", ("", "validation", "test", level, "test NLL"), each))
    return tables


def _spread(comparison: Comparison) -> list[Table]:
    spread, parts = comparison.spread.accuracy, comparison.spread.components
    tables = []
    variances = (
        ("seen", spread.observed),
        ("real, on an endless test set", spread.real),
        ("the same, from test halves", spread.split_half),
        ("luck of these samples", spread.noise),
    )
    rows = [[name, f"{100 * max(value, 0) ** 0.5:.3f}"] for name, value in variances if value is not None]
    if rows:
        tables.append(Table("Spread of the seeds' accuracies", ("", "SD (points)"), rows))
    if parts.seed is not None and parts.example is not None and parts.residual is not None:
        named = (("seed", parts.seed), ("example", parts.example), ("seed × example, rest", parts.residual))
        total = sum(value for _, value in named)
        rows = [[name, f"{value:.6f}", f"{100 * value / total:.2f} %" if total else NONE] for name, value in named]
        tables.append(Table("Variance of being right", ("component", "variance", "share"), rows))
    return tables


def _committees(comparison: Comparison) -> Table:
    curve, ahead = comparison.curve, comparison.forecast
    exact = comparison.curve_plurality
    plurality = dict(zip(exact.sizes, exact.accuracy, strict=True)) if exact else {}
    rows = [
        [
            str(size),
            f"{100 * value:.2f}",
            NONE if spread is None else f"{100 * spread:.2f}",
            str(count),
            NONE,
            f"{100 * plurality[size]:.2f}" if size in plurality else NONE,
        ]
        for size, value, spread, count in zip(
            curve.sizes, curve.accuracy, curve.deviation, curve.committees, strict=True
        )
    ]
    if ahead.accuracy is None or ahead.intervals is None:
        caption = f"Accuracy by committee size. No forecast: {ahead.reason}."
    else:
        caption = (
            f"Accuracy of the {comparison.plan.rule} vote by committee size, SD over the committees seen; forecasts "
            "with their interval. Plurality: expected over all committees of a size, ties split evenly"
        )
        for size, value, interval in zip(ahead.sizes, ahead.accuracy, ahead.intervals, strict=True):
            rows.append([f"{size} (forecast)", f"{100 * value:.2f}", NONE, NONE, percents_cell(interval), NONE])
    header = ("members", "accuracy (%)", "SD", "committees", "interval (%)", "plurality (%)")
    return Table(caption, header, rows)


def _diversity(comparison: Comparison) -> Section:
    found = comparison.diversity
    names = (
        ("disagreement", "decided differently by two members"),
        ("disagreement_normalized", "the same, divided by the error rate"),
        ("error_correlation", "correlation of errors"),
        ("yule_q", "Yule's Q of errors"),
        ("kappa", "Cohen's kappa of decisions"),
    )
    rows, reasons = [], dict[str, list[str]]()
    for key, name in names:
        value = getattr(found, key)
        rows.append([name, f"{value:.4f}" if value is not None else UNDEFINED])
        if value is None:
            reasons.setdefault(found.reasons.get(key, ""), []).append(name)
    rows.append(["right by at least one member", percent(found.oracle_accuracy)])
    agreement = [
        [f"up to {100 * each.upper:.0f} %", str(each.count), NONE if each.accuracy is None else percent(each.accuracy)]
        for each in comparison.agreement
        if each.count
    ]
    sentences = [f"{' and '.join(each)}: {UNDEFINED}, as {reason}." for reason, each in reasons.items()]
    tables = [
        Table("Diversity, mean over pairs of members", ("measure", "value"), rows),
        Table("Vote agreement", ("members behind the top class", "samples", "vote right"), agreement),
    ]
    return Section(_DIVERSITY, [text[0].upper() + text[1:] for text in sentences], ["disagreement"], tables)


def _saved(comparison: Comparison) -> str:
    test, found = comparison.primary.chosen, comparison.outvoted
    return (
        f"Against seed {comparison.members.chosen} the vote saves {test.won} samples and loses {test.lost}. "
        f"It is right on {len(found.saved)} that at most half of the members have right, and wrong on "
        f"{len(found.lost)} that at least half have right. Their numbers are in comparison.json."
    )
