"""The sections of the page: which sentences, figures and tables stand under which heading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from seedvote.comparison import Comparison, Rival, VoteScores
from seedvote.report import percent
from seedvote.stats import Interval, Scores, Summary
from seedvote.verdict import Verdict, duration, p_text, signed

LONGEST_TABLE = 20
UNDEFINED = "not defined"
_MEASURES = {
    "max_probability": "top probability",
    "negative_entropy": "entropy",
    "negative_mutual_information": "mutual information",
    "agreement": "vote agreement",
}


@dataclass(frozen=True)
class Table:
    """A table: caption, header, rows of text; strong: positions of the rows that matter most."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; figures are named as ``seedvote.figures.draw`` names them."""

    title: str
    sentences: Sequence[str] = ()
    figures: Sequence[str] = ()
    tables: Sequence[Table] = field(default_factory=list)


def build(comparison: Comparison, verdict: Verdict, rivals: Sequence[tuple[str, Rival]] = ()) -> list[Section]:
    """Return the sections of the page in their order."""
    several = len(comparison.seeds) > 1
    found = [
        Section("Scores", [verdict.spread, verdict.best_on_test] if several else [], ["spread"], _scores(comparison)),
        Section("How many seeds", [verdict.how_many], ["committees"], [_committees(comparison)]),
        Section("How differently the members decide", [], ["disagreement"], _diversity(comparison)),
        Section(
            "Can its probabilities be trusted", [_calibrated(comparison)], ["reliability"], [_calibration(comparison)]
        ),
        Section("Answering only where it is sure", [], ["selective"], [_selective(comparison)]),
        Section("Samples the vote saved and lost", [_saved(comparison)], ["pictures"]),
        Section("Classes", [], [], _classes(comparison)),
        Section("Cost", [verdict.cost], [], [_cost(comparison, rivals)]),
    ]
    only_votes = {"How many seeds", "How differently the members decide", "Samples the vote saved and lost"}
    return [section for section in found if several or section.title not in only_votes]


def _scores(comparison: Comparison) -> list[Table]:
    members, chosen = comparison.members, comparison.chosen
    header: tuple[str, ...] = ("", "accuracy", "interval (%)", "NLL", "Brier", "ECE", "ties")
    rows = [
        ["mean single seed", *_score_cells(_means(members.test))[:1], "", *_score_cells(_means(members.test))[1:], ""]
    ]
    several = len(comparison.seeds) > 1
    if several:
        rows.append([*_score_row(f"seed {chosen.seed}, best on validation", chosen.test, chosen.interval), ""])
        rows += [[*_score_row(_rule(vote), vote.scores, vote.interval), str(vote.tied)] for vote in comparison.votes]
    level = f"{100 * comparison.plan.level:g} %"
    tables = [Table(f"Scores on test; intervals are Wilson's, {level}", header, rows, [2] if several else [])]
    if several:
        gains = [
            [
                _rule(vote),
                signed(vote.gain.difference),
                _points(vote.gain.interval),
                _p(vote.gain.p_value if vote.p_holm is None else vote.p_holm),
                f"{vote.chosen.won} : {vote.chosen.lost}",
                _p(vote.chosen.p_mid),
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
        [name, *_summary(getattr(members.test, key), factor)]
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
            _percents(member.interval),
            f"{member.test.negative_log_likelihood:.4f}",
        ]
        for member in members.each[:LONGEST_TABLE]
    ]
    more = f", the first {LONGEST_TABLE} of {len(members.each)}" if len(members.each) > LONGEST_TABLE else ""
    tables.append(Table(f"Each seed{more}", ("", "validation", "test", level, "test NLL"), each))
    return tables


def _means(summary: object) -> Scores:
    names = ("accuracy", "negative_log_likelihood", "brier", "expected_calibration_error")
    return Scores(*(getattr(summary, name).mean for name in names))


def _score_cells(scores: Scores) -> list[str]:
    values = (scores.negative_log_likelihood, scores.brier, scores.expected_calibration_error)
    return [percent(scores.accuracy), *(f"{value:.4f}" for value in values)]


def _score_row(name: str, scores: Scores, interval: Interval) -> list[str]:
    accuracy, *others = _score_cells(scores)
    return [name, accuracy, _percents(interval), *others]


def _summary(summary: Summary, factor: float) -> list[str]:
    values = (summary.mean, summary.deviation, summary.minimum, summary.maximum)
    digits = 2 if factor == 100 else 4
    return ["–" if value is None else f"{factor * value:.{digits}f}" for value in values]


def _committees(comparison: Comparison) -> Table:
    curve, ahead = comparison.curve, comparison.forecast
    rows = [
        [str(size), f"{100 * value:.2f}", "–" if spread is None else f"{100 * spread:.2f}", str(count), "–"]
        for size, value, spread, count in zip(
            curve.sizes, curve.accuracy, curve.deviation, curve.committees, strict=True
        )
    ]
    if ahead.accuracy is None or ahead.intervals is None:
        caption = f"Accuracy by committee size. No forecast: {ahead.reason}."
    else:
        caption = "Accuracy by committee size, SD over the committees seen; forecasts with their interval"
        for size, value, interval in zip(ahead.sizes, ahead.accuracy, ahead.intervals, strict=True):
            rows.append([f"{size} (forecast)", f"{100 * value:.2f}", "–", "–", _percents(interval)])
    return Table(caption, ("members", "accuracy (%)", "SD", "committees", "interval (%)"), rows)


def _diversity(comparison: Comparison) -> list[Table]:
    found = comparison.diversity
    names = (
        ("disagreement", "decided differently by two members"),
        ("disagreement_normalized", "the same, divided by the error rate"),
        ("error_correlation", "correlation of errors"),
        ("yule_q", "Yule's Q of errors"),
        ("kappa", "Cohen's kappa of decisions"),
    )
    rows = []
    for key, name in names:
        value = getattr(found, key)
        rows.append([name, f"{value:.4f}" if value is not None else f"{UNDEFINED}: {found.reasons.get(key, '')}"])
    rows.append(["right by at least one member", percent(found.oracle_accuracy)])
    agreement = [
        [f"up to {100 * each.upper:.0f} %", str(each.count), "–" if each.accuracy is None else percent(each.accuracy)]
        for each in comparison.agreement
        if each.count
    ]
    return [
        Table("Diversity, mean over pairs of members", ("measure", "value"), rows),
        Table("Vote agreement", ("members behind the top class", "samples", "vote right"), agreement),
    ]


def _calibrated(comparison: Comparison) -> str:
    found = comparison.calibration
    bound = " It is at the end of its range: validation has too few errors to fit it." if found.at_bound else ""
    way = "flattens" if found.temperature > 1 else "sharpens"
    return (
        f"A temperature of {found.temperature:.3g}, fitted on validation after pooling, {way} the soft vote's "
        f"probabilities; decisions stay the same.{bound}"
    )


def _calibration(comparison: Comparison) -> Table:
    found, single = comparison.calibration, comparison.members.test
    rows = [
        ["mean single seed", *_score_cells(_means(single))[1:]],
        ["soft vote", *_score_cells(found.before)[1:]],
        ["with temperature", *_score_cells(found.after)[1:]],
    ]
    return Table("Calibration on test", ("", "NLL", "Brier", "ECE"), rows)


def _selective(comparison: Comparison) -> Table:
    coverages = list(comparison.selective[0].accuracy_at)
    rows = [
        [
            _MEASURES[found.measure],
            f"{100 * found.area:.3f}",
            f"{100 * found.excess_area:.3f}",
            *(f"{100 * found.accuracy_at[key]:.2f}" for key in coverages),
        ]
        for found in comparison.selective
    ]
    header = ("soft vote sure by", "AURC (%)", "excess (%)", *(f"{key} %" for key in coverages))
    return Table(
        "Area under risk against coverage, and accuracy (%) on the surest 50 % of samples and more", header, rows
    )


def _saved(comparison: Comparison) -> str:
    test, found = comparison.primary.chosen, comparison.outvoted
    return (
        f"Against seed {comparison.members.chosen} the vote saves {test.won} samples and loses {test.lost}. "
        f"It is right on {len(found.saved)} that at most half of the members have right, and wrong on "
        f"{len(found.lost)} that at least half have right. Their numbers are in comparison.json."
    )


def _classes(comparison: Comparison) -> list[Table]:
    present = sorted(
        comparison.per_class, key=lambda one: (one.difference is None, -abs(one.difference or 0), one.label)
    )
    shown = sorted(present[:LONGEST_TABLE], key=lambda one: one.label)
    rows = [
        [
            one.name,
            str(one.support),
            UNDEFINED if one.single is None else percent(one.single),
            UNDEFINED if one.vote is None else percent(one.vote),
            UNDEFINED if one.difference is None else signed(one.difference),
            UNDEFINED if one.p_holm is None else _p(one.p_holm),
        ]
        for one in shown
    ]
    more = f"; the {LONGEST_TABLE} that change most of {len(present)}" if len(present) > LONGEST_TABLE else ""
    tables = [
        Table(
            f"Share of each class decided right{more}",
            ("class", "samples", "single seed", "vote", "points", "p (Holm)"),
            rows,
        )
    ]
    names = comparison.classes
    confusions = [
        [
            f"{names[one.true]} → {names[one.decided]}",
            f"{one.single:.1f}",
            str(one.vote),
            f"{one.vote - one.single:+.1f}",
        ]
        for one in comparison.confusions[:10]
    ]
    if confusions:
        header = ("true → decided", "single seed", "vote", "change")
        tables.append(Table("Confusions that change most, in samples", header, confusions))
    return tables


def _cost(comparison: Comparison, rivals: Sequence[tuple[str, Rival]]) -> Table:
    def row(name: str, training: float, inference: float, samples: int) -> list[str]:
        return [name, duration(training), duration(inference), duration(inference / samples)]

    cost = comparison.cost
    rows = [row("one seed, on average", cost.training.mean, cost.inference.mean, cost.samples)]
    if len(comparison.seeds) > 1:
        rows.append(row(f"vote of {len(comparison.seeds)}", cost.training_total, cost.inference_total, cost.samples))
    for name, rival in rivals:
        theirs = rival.cost
        rows.append(row(f"one seed of {name}", theirs.training.mean, theirs.inference.mean, theirs.samples))
        if rival.members > 1:
            rows.append(
                row(f"vote of {rival.members} of {name}", theirs.training_total, theirs.inference_total, theirs.samples)
            )
    where = f"training on {', '.join(cost.training_devices)}, inference on {', '.join(cost.inference_devices)}"
    header = ("", "training", f"inference, {cost.samples:,} samples", "each sample")
    return Table(f"Seconds as measured: {where}", header, rows)


def _rule(vote: VoteScores) -> str:
    return f"{vote.rule} vote" + (" (primary)" if vote.primary else "")


def _p(p_value: float) -> str:
    return p_text(p_value).removeprefix("p").removeprefix(" = ").strip()


def _points(interval: Interval) -> str:
    if interval.lower is None or interval.upper is None:
        return UNDEFINED
    return f"{signed(interval.lower)} to {signed(interval.upper)}"


def _percents(interval: Interval) -> str:
    if interval.lower is None or interval.upper is None:
        return UNDEFINED
    return f"{100 * interval.lower:.2f} to {100 * interval.upper:.2f}"
