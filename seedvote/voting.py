"""Rules that turn the members' logits ``[M, S, C]`` into one decision for each sample.

Input is unnormalised logits. Log-probabilities are logits too, since ``log_softmax`` leaves them unchanged;
probabilities are not, and nothing here guesses from the value range which of them it was given.
All arithmetic is in float64. Each rule gives every class a score, and the highest normalised score wins:

``soft``          mean of the members' probabilities; with ``weights`` their weighted mean
``majority``      share of members whose own arg max is the class (plurality); with ``weights`` the share of
                  weight; within one member equal logits go to the lowest class index
``geometric``     normalised geometric mean: softmax of the members' mean log-probability
``median``        median of the members' probabilities for each class, renormalised
``trimmed_mean``  mean for each class without the ``floor(trim * M)`` lowest and as many highest
                  probabilities, renormalised
``borda``         Borda count: in each member a class gets one point for each class it beats and half a point
                  for each class it equals; points are summed over members and normalised
``weighted``      ``soft`` that insists on ``weights``

Where every score is zero (three members, each certain of another class, have all medians zero) the rule has
no opinion: the scores are uniform and all classes are tied.

For every rule the order of the members changes nothing, to the last bit. Ties (within 1e-12) apart, one
member alone decides as it would by itself, a class that all members put first wins, and renaming the classes
renames the result. Counting all members twice changes nothing beyond rounding (1e-12), except that
``trimmed_mean`` needs a whole ``trim * M`` for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seedvote.chunks import Chunk, chunks, log_probabilities
from seedvote.errors import listed, unknown

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

RULES = ("soft", "majority", "geometric", "median", "trimmed_mean", "borda", "weighted")
TIES = ("probability", "lowest", "abstain")
ON_BAD_MEMBER = ("error", "drop")
WEIGHTED_RULES = ("weighted", "soft", "majority")

ABSTAINED = -1
TIE_TOLERANCE = 1e-12
TRIM = 0.2

_THREADS = 2
_STACKING_GAP = 1e-7  # nats for each sample, far below what a validation set can resolve
_STACKING_ITERATIONS = 100_000


@dataclass(frozen=True, eq=False)
class Vote:
    """What the members decided together.

    labels: ``[S]``, winning class, or -1 where the vote abstained. probabilities: ``[S, C]``, the rule's
    normalised scores (vote shares for ``majority``, points for ``borda``); rows sum to 1. votes: ``[S]``, how
    many members put the winning class first, each counted once whatever its weight; 0 where abstained.
    tied: ``[S]``, whether more than one class scored within 1e-12 of the top. members: positions in the input
    of the members that voted. dropped: seeds of the members that were left out.
    """

    labels: Integers
    probabilities: Floats
    votes: Integers
    tied: Booleans
    members: tuple[int, ...]
    dropped: tuple[int, ...]

    @property
    def tie_rate(self) -> float:
        """Fraction of samples whose top score was shared."""
        return float(self.tied.mean())


def vote(
    logits: ArrayLike,
    rule: str = "soft",
    *,
    tie: str = "probability",
    weights: ArrayLike | None = None,
    seeds: Sequence[int] | None = None,
    on_bad_member: str = "error",
    trim: float = TRIM,
) -> Vote:
    """Let the members decide every sample by one of ``RULES``.

    Classes whose normalised scores lie within 1e-12 of the top are tied, so that rounding cannot decide.
    ``tie`` says who wins: ``probability`` the tied class with the highest mean probability (weighted if the
    vote is), and the lowest index where that is equal too, again within 1e-12; ``lowest`` the lowest index,
    as in scikit-learn; ``abstain`` nobody, label -1.

    logits: ``[M, S, C]``, unnormalised logits or log-probabilities; -inf means probability zero.
    weights: ``[M]``, finite, non-negative, with a positive sum; needed by ``weighted``, allowed for ``soft``
    and ``majority``. seeds: ``[M]``, what errors and ``dropped`` call the members; default their positions.
    on_bad_member: what happens to a member with a NaN, a +inf, or a sample whose logits are all -inf:
    ``error`` refuses the vote, ``drop`` leaves the member out and reports it.
    trim: fraction in [0, 0.5) that ``trimmed_mean`` drops at each end.

    Raises ``ValueError`` for unknown names, wrong shapes, unusable weights and bad members.
    """
    named = {} if weights is None else {rule: weights}
    found = vote_by_each(logits, (rule,), tie=tie, weights=named, seeds=seeds, on_bad_member=on_bad_member, trim=trim)
    return found[rule]


def vote_by_each(
    logits: ArrayLike,
    rules: Sequence[str],
    *,
    tie: str = "probability",
    weights: Mapping[str, ArrayLike] | None = None,
    seeds: Sequence[int] | None = None,
    on_bad_member: str = "error",
    trim: float = TRIM,
) -> dict[str, Vote]:
    """``vote`` by several rules at the cost of little more than one: they share one pass over the logits.

    weights: by rule. The rest, and what is raised, as in ``vote``.
    """
    for kind, names, known in (("rule", rules, RULES), ("tie", [tie], TIES)):
        for name in names:
            if name not in known:
                raise ValueError(unknown(kind, name, known))
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim must be at least 0 and less than 0.5, but it is {trim}: try the default 0.2.")
    values = _checked_logits(logits)
    given = {rule: _checked_weights((weights or {}).get(rule), rule, len(values)) for rule in rules}
    members, dropped = _usable_members(values, seeds, on_bad_member)
    given = {rule: each[members] for rule, each in given.items()}
    if not all(each.any() for each in given.values()):
        raise ValueError(
            f"Only the dropped members (seeds {listed(dropped)}) have a positive weight: "
            "give one of the others a positive weight."
        )

    def decide(samples: Integers) -> list[list[Decided]]:
        return [
            [vote_chunk(chunk, rule, tie, each, trim) for rule, each in given.items()]
            for chunk in chunks(values, members, samples)
        ]

    with ThreadPoolExecutor(_THREADS) as pool:
        strips = pool.map(decide, np.array_split(np.arange(values.shape[1]), _THREADS))
        pieces = [piece for strip in strips for piece in strip]
    found = {}
    for rule, parts in zip(given, zip(*pieces, strict=True), strict=True):
        labels, probabilities, votes, tied = (np.concatenate(each) for each in zip(*parts, strict=True))
        found[rule] = Vote(labels, probabilities, votes, tied, tuple(members.tolist()), dropped)
    return found


def stacking_weights(
    logits_validation: ArrayLike,
    labels: ArrayLike,
    *,
    seeds: Sequence[int] | None = None,
    on_bad_member: str = "error",
) -> Floats:
    """Member weights ``[M]`` that maximise the validation likelihood of the weighted vote.

    ``w = argmax over the simplex of mean_s log(sum_m w_m p_m(label_s | sample_s))``: stacking of predictive
    distributions (Yao, Vehtari, Simpson and Gelman, Bayesian Analysis 13, 2018). The problem is concave. EM
    from equal weights, ``w_m <- w_m g_m`` with ``g_m = mean_s p_ms / sum_k w_k p_ks``, climbs it and ends
    when ``max_m g_m - 1``, a bound on what is still to be gained, is at most 1e-7 nats (or after 100,000
    steps). Nothing is drawn at random, and members with equal predictions get equal weights.

    logits_validation: ``[M, S, C]``. labels: ``[S]``, the true classes of these samples; not the test split.
    A sample to which every member gives probability zero cannot tell members apart and is left out.
    seeds, on_bad_member: as in ``vote``; a dropped member has weight 0.

    Raises ``ValueError`` for wrong shapes, labels outside ``0 .. C-1``, and bad members.
    """
    values = _checked_logits(logits_validation)
    targets = _checked_labels(labels, *values.shape[1:])
    members, _ = _usable_members(values, seeds, on_bad_member)
    samples = np.arange(len(targets))
    log_likelihoods = np.stack([log_probabilities(values[m].astype(np.float64))[samples, targets] for m in members])
    weights = np.zeros(len(values))
    weights[members] = likeliest_mixture(log_likelihoods)
    return weights


def likeliest_mixture(log_likelihoods: Floats) -> Floats:
    """``stacking_weights`` from the log-likelihoods ``[M, S]`` of the true classes."""
    weights = np.full(len(log_likelihoods), 1 / len(log_likelihoods))
    best = log_likelihoods.max(axis=0)
    possible = best > -np.inf
    if not possible.any():
        return weights
    # Scaling a sample's likelihoods adds a constant to the objective and keeps tiny ones from vanishing.
    likelihoods = np.exp(log_likelihoods[:, possible] - best[possible])
    for _ in range(_STACKING_ITERATIONS):
        gains = likelihoods @ (1 / (weights @ likelihoods)) / likelihoods.shape[1]
        if gains.max() - 1 <= _STACKING_GAP:
            break
        weights = weights * gains
        weights /= weights.sum()
    return weights


Decided = tuple[Integers, Floats, Integers, Booleans]


def vote_chunk(chunk: Chunk, rule: str, tie: str, weights: Floats, trim: float = TRIM) -> Decided:
    """``vote`` on some samples, unchecked: their labels, probabilities, votes and whether they are tied."""
    probabilities = _normalized(_scores(chunk, rule, weights, trim))
    candidates = probabilities >= probabilities.max(axis=1, keepdims=True) - TIE_TOLERANCE
    tied = candidates.sum(axis=1) > 1
    if tie == "probability" and tied.any():
        means = np.where(candidates[tied], _mean(chunk.probabilities[:, tied], weights), -1.0)
        candidates[tied] = means >= means.max(axis=1, keepdims=True) - TIE_TOLERANCE
    labels = candidates.argmax(axis=1).astype(np.int64)  # the first candidate: the lowest index
    if tie == "abstain":
        labels[tied] = ABSTAINED
    votes = (chunk.first_choices == labels).sum(axis=0, dtype=np.int64)
    return labels, probabilities, votes, tied


def _scores(chunk: Chunk, rule: str, weights: Floats, trim: float) -> Floats:
    """Scores ``[S, C]``, non-negative and not yet normalised."""
    if rule == "borda":
        # Imported here: scipy.stats alone takes longer to import than all the rest of this module.
        from scipy.stats import rankdata

        points: Floats = (rankdata(chunk.logits, axis=2) - 1).sum(axis=0)
        return points
    if rule == "majority":
        return _shares(chunk.first_choices, chunk.logits.shape[2], weights)
    if rule == "geometric":
        with np.errstate(over="ignore"):  # as in log_probabilities
            means = chunk.ordered(chunk.log_probabilities).sum(axis=0) / len(weights)
        top = means.max(axis=1, keepdims=True)
        scores: Floats = np.exp(means - np.where(np.isfinite(top), top, 0.0))
        return scores
    if rule in ("soft", "weighted") and (weights != 1).any():
        return _mean(chunk.probabilities, weights)
    members, ordered = len(weights), chunk.ordered(chunk.probabilities)
    if rule in ("soft", "weighted"):
        return np.asarray(ordered.sum(axis=0) / members)
    # scipy.stats.trim_mean's expression; the median is what is left when as many as possible are dropped.
    cut = (members - 1) // 2 if rule == "median" else min(int(trim * members), (members - 1) // 2)
    kept: Floats = ordered[cut : members - cut].mean(axis=0)
    return kept


def _shares(first_choices: Integers, classes: int, weights: Floats) -> Floats:
    """Weight ``[S, C]`` behind each class, for the members' first choices ``[M, S]``."""
    shares = np.zeros((first_choices.shape[1], classes))
    rows = np.arange(len(shares))
    # In order of weight, so that the order of the members cannot change how the sums are rounded.
    for member in np.argsort(weights, kind="stable"):
        shares[rows, first_choices[member]] += weights[member]
    return shares


def _mean(values: Floats, weights: Floats) -> Floats:
    """Weighted mean ``[S, C]`` over members, the same to the last bit for every order of the members."""
    weighted = values * weights[:, np.newaxis, np.newaxis] if (weights != 1).any() else values.copy()
    weighted.sort(axis=0)
    with np.errstate(over="ignore"):  # as in log_probabilities
        mean: Floats = weighted.sum(axis=0) / np.sort(weights).sum()
    return mean


def _normalized(scores: Floats) -> Floats:
    """Rows that sum to 1; uniform where every score is zero."""
    totals = scores.sum(axis=1, keepdims=True)
    return np.where(totals > 0, scores / np.where(totals > 0, totals, 1.0), 1 / scores.shape[1])


def _usable_members(
    logits: NDArray[np.generic], seeds: Sequence[int] | None, on_bad_member: str
) -> tuple[Integers, tuple[int, ...]]:
    """Positions of the members that can vote, and the seeds of those that cannot."""
    if on_bad_member not in ON_BAD_MEMBER:
        raise ValueError(unknown("on_bad_member", on_bad_member, ON_BAD_MEMBER))
    names = tuple(range(len(logits))) if seeds is None else tuple(int(seed) for seed in seeds)
    if len(names) != len(logits):
        raise ValueError(f"seeds must name all {len(logits)} members of the logits, but {len(names)} came.")
    with np.errstate(invalid="ignore"):
        # A row's maximum is NaN, +inf or -inf exactly when it holds a NaN, a +inf or nothing but -inf.
        usable = np.array([bool(np.isfinite(np.asarray(member).max(axis=1)).all()) for member in logits])
    dropped = tuple(name for name, good in zip(names, usable, strict=True) if not good)
    if dropped and (on_bad_member == "error" or not usable.any()):
        remedy = "or leave them out (on_bad_member=drop)" if usable.any() else "as nobody is left to vote"
        raise ValueError(
            f"Finite logits were wanted, but those of the members with seeds {listed(dropped)} are "
            f"NaN, +inf, or -inf for every class of some sample: train these members again, {remedy}."
        )
    return np.flatnonzero(usable), dropped


def _checked_logits(logits: ArrayLike) -> NDArray[np.generic]:
    values = np.asarray(logits)
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind not in "fiu":
        raise ValueError(
            "logits must be real numbers of shape [members, samples, classes] with at least one of each, "
            f"but they are {values.dtype} of shape {list(values.shape)}: stack the members on the first axis."
        )
    return values


def _checked_weights(weights: ArrayLike | None, rule: str, members: int) -> Floats:
    """Weights scaled to a largest of 1; ones where there are none, which leaves unweighted sums exact."""
    if weights is None:
        if rule == "weighted":
            raise ValueError("Rule 'weighted' needs weights: give one for each member, or use rule 'soft'.")
        return np.ones(members)
    if rule not in WEIGHTED_RULES:
        known = ", ".join(WEIGHTED_RULES)
        raise ValueError(f"Rule '{rule}' takes no weights: leave them out, or choose one of {known}.")
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (members,) or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ValueError(
            f"weights must be {members} finite, non-negative numbers, one for each member and at least one "
            f"of them positive, but they are {values.tolist()}."
        )
    scaled: Floats = values / values.max()
    return scaled


def _checked_labels(labels: ArrayLike, samples: int, classes: int) -> Integers:
    values = np.asarray(labels)
    if values.shape != (samples,) or values.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be {samples} class indices, one for each sample of the logits, "
            f"but they are {values.dtype} of shape {list(values.shape)}."
        )
    if values.min() < 0 or values.max() >= classes:
        raise ValueError(
            f"labels must lie in 0 .. {classes - 1}, the classes of the logits, "
            f"but they run from {values.min()} to {values.max()}."
        )
    return values.astype(np.int64)
