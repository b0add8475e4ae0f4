"""What the vote costs, and how it does against other runs, on its page."""

from __future__ import annotations

from collections.abc import Sequence

from seedvote.comparison import Comparison, Rival
from seedvote.report import percent
from seedvote.sections.tables import NONE, Section, Table, p_cell, points_cell
from seedvote.verdict import Verdict, duration, signed

Named = tuple[str, Rival]


def rival_sections(comparison: Comparison, rivals: Sequence[Named]) -> list[Section]:
    """One section for each rival: the same tests, and what this vote costs as a multiple."""
    return [Section(f"Against {name}", [], [], [_against(comparison, name, rival)]) for name, rival in rivals]


def _against(comparison: Comparison, name: str, rival: Rival) -> Table:
    own = comparison.primary.scores.accuracy
    chosen = rival.against_chosen
    rows = [
        [
            f"single seed of {name}, on average",
            percent(rival.accuracy.mean),
            signed(rival.against_members.difference),
            points_cell(rival.against_members.interval),
            p_cell(rival.against_members.p_value),
            *_ratios(rival, "of_one_member"),
        ],
        [
            f"best on validation: seed {rival.chosen} of {rival.chosen_run}",
            percent(own - chosen.difference),
            signed(chosen.difference),
            NONE,
            p_cell(chosen.p_mid),
            *_ratios(rival, "of_one_member"),
        ],
    ]
    if rival.members > 1:
        vote = rival.against_vote
        rows.append(
            [
                f"{comparison.plan.rule} vote of {rival.members} of {name}",
                percent(rival.vote_accuracy),
                signed(vote.difference),
                points_cell(vote.interval),
                p_cell(vote.p_value),
                *_ratios(rival, "of_the_vote"),
            ]
        )
    header = ("against", "accuracy", "points", f"{100 * comparison.plan.level:g} %", "p", "training ×", "inference ×")
    caption = (
        f"The {comparison.plan.rule} vote of {len(comparison.seeds)} ({percent(own)}) minus each; p: sign-flip test, "
        "for the member best on validation McNemar's mid-p; ×: what this vote costs as a multiple"
    )
    return Table(caption, header, rows)


def _ratios(rival: Rival, of_what: str) -> list[str]:
    ratios = (rival.training_ratio[of_what], rival.inference_ratio[of_what])
    return [NONE if ratio is None else f"{ratio:.3g}" for ratio in ratios]


def cost(comparison: Comparison, verdict: Verdict, rivals: Sequence[Named]) -> Section:
    """Seconds of one seed, of the vote, and of rivals."""
    return Section("Cost", [verdict.cost], [], [_cost(comparison, rivals)])


def _cost(comparison: Comparison, rivals: Sequence[Named]) -> Table:
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
