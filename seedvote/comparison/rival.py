"""Another run, or several as one committee, beside this one: the same tests on the same samples, and both costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seedvote import stats
from seedvote.comparison.records import Comparison, Rival


def against(comparison: Comparison, rival: Comparison, names: Sequence[tuple[str, int]]) -> Rival:
    """Test a run's primary vote against a rival's members, its vote and its member chosen on validation.

    names: run and seed of each of the rival's members, in their order: a rival may be made of several runs.
    Raises ``ValueError`` where the two were not scored on the same samples.
    """
    ours, theirs = comparison.decisions, rival.decisions
    if not np.array_equal(ours.targets, theirs.targets):
        raise ValueError("a rival must have been scored on the same test samples: their true classes differ")
    vote = ours.vote_labels == ours.targets
    members = theirs.member_labels == theirs.targets
    their_vote = theirs.vote_labels == theirs.targets
    level, seed = comparison.plan.level, comparison.plan.resampling_seed
    chosen = rival.seeds.index(rival.members.chosen)
    return Rival(
        runs=tuple(dict.fromkeys(run for run, _ in names)),
        members=len(rival.seeds),
        accuracy=rival.members.test.accuracy,
        vote_accuracy=rival.primary.scores.accuracy,
        chosen=names[chosen][1],
        chosen_run=names[chosen][0],
        against_members=stats.committee_difference(members, vote, level=level, seed=seed),
        against_vote=stats.committee_difference(their_vote[np.newaxis], vote, level=level, seed=seed),
        against_chosen=stats.mcnemar(vote, members[chosen]),
        training_ratio=_ratios(comparison.cost.training_total, rival.cost.training.mean, rival.cost.training_total),
        inference_ratio=_ratios(comparison.cost.inference_total, rival.cost.inference.mean, rival.cost.inference_total),
        cost=rival.cost,
    )


def _ratios(ours: float, one: float, vote: float) -> dict[str, float | None]:
    return {
        "of_one_member": ours / one if one > 0 else None,
        "of_the_vote": ours / vote if vote > 0 else None,
    }
