"""One run's members beside their vote: every number of a comparison. Arrays in, records out; no torch, no config."""

from seedvote.comparison.compute import compare
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
    Rival,
    Samples,
    ScoreSummary,
    Selective,
    Spread,
    VoteScores,
)
from seedvote.comparison.rival import against
from seedvote.comparison.values import plain

__all__ = [
    "BestOnTest",
    "ClassGain",
    "CommitteeCurve",
    "Comparison",
    "Confusion",
    "Cost",
    "MemberScores",
    "Members",
    "Plan",
    "Pooled",
    "Rival",
    "Samples",
    "ScoreSummary",
    "Selective",
    "Spread",
    "VoteScores",
    "against",
    "compare",
    "plain",
]
