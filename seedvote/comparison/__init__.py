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
    RuleScores,
    Samples,
    ScoreSummary,
    Selective,
    Spread,
    VoteScores,
)
from seedvote.comparison.rival import against
from seedvote.comparison.sureness import MEASURES
from seedvote.comparison.values import plain

__all__ = [
    "MEASURES",
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
    "RuleScores",
    "Samples",
    "ScoreSummary",
    "Selective",
    "Spread",
    "VoteScores",
    "against",
    "compare",
    "plain",
]
