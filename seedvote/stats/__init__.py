"""Is the vote better than a seed, by how much, and could it be luck? Arrays in, numbers out.

docs/statistics.md says in plain words what each number means and how far its tests and intervals can be trusted.
"""

from seedvote.stats.calibration import (
    Calibration,
    ReliabilityBin,
    apply_temperature,
    calibrate,
    fit_temperature,
    reliability,
)
from seedvote.stats.committees import (
    SUBSETS,
    Curve,
    Grid,
    committee_sizes,
    curve_of,
    soft_curve,
    subset_curve,
    subset_grid,
    worthwhile,
)
from seedvote.stats.diversity import AgreementBin, Diversity, agreement_table, diversity
from seedvote.stats.forecast import Forecast, forecast, grids_without, plurality_curves_without, soft_curves_without
from seedvote.stats.intervals import (
    BeatsSeed,
    CommitteeDifference,
    Interval,
    beats_random_seed,
    committee_difference,
    wilson,
)
from seedvote.stats.per_class import Outvoted, PerClass, outvoted, per_class
from seedvote.stats.plurality import MOST_MEMBERS, plurality_correct, plurality_correct_of_each, plurality_curve
from seedvote.stats.procedure import (
    ProcedureDifference,
    correct_of_each,
    half_committees,
    procedure_difference,
    soft_correct_of_each,
)
from seedvote.stats.scores import (
    Scores,
    Summary,
    brier,
    expected_calibration_error,
    negative_log_likelihood,
    score,
    score_members,
    summarize,
)
from seedvote.stats.selective import (
    ConfidenceScores,
    RiskCoverage,
    accuracy_at_coverage,
    confidence_scores,
    risk_coverage,
)
from seedvote.stats.significance import (
    McNemar,
    SelectionEffect,
    expected_maximum,
    holm,
    mcnemar,
    selection_effect,
    sign_flip,
)
from seedvote.stats.subset_votes import subsets_right
from seedvote.stats.variance import Components, SeedSpread, seed_spread, variance_components

__all__ = [
    "MOST_MEMBERS",
    "SUBSETS",
    "AgreementBin",
    "BeatsSeed",
    "Calibration",
    "CommitteeDifference",
    "Components",
    "ConfidenceScores",
    "Curve",
    "Diversity",
    "Forecast",
    "Grid",
    "Interval",
    "McNemar",
    "Outvoted",
    "PerClass",
    "ProcedureDifference",
    "ReliabilityBin",
    "RiskCoverage",
    "Scores",
    "SeedSpread",
    "SelectionEffect",
    "Summary",
    "accuracy_at_coverage",
    "agreement_table",
    "apply_temperature",
    "beats_random_seed",
    "brier",
    "calibrate",
    "committee_difference",
    "committee_sizes",
    "confidence_scores",
    "correct_of_each",
    "curve_of",
    "diversity",
    "expected_calibration_error",
    "expected_maximum",
    "fit_temperature",
    "forecast",
    "grids_without",
    "half_committees",
    "holm",
    "mcnemar",
    "negative_log_likelihood",
    "outvoted",
    "per_class",
    "plurality_correct",
    "plurality_correct_of_each",
    "plurality_curve",
    "plurality_curves_without",
    "procedure_difference",
    "reliability",
    "risk_coverage",
    "score",
    "score_members",
    "seed_spread",
    "selection_effect",
    "sign_flip",
    "soft_correct_of_each",
    "soft_curve",
    "soft_curves_without",
    "subset_curve",
    "subset_grid",
    "subsets_right",
    "summarize",
    "variance_components",
    "wilson",
    "worthwhile",
]
