"""Cases at the edge through every statistic: a number or ``None`` with a reason comes back, never NaN."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.special import softmax

from seedvote import stats


def problems(value, path="result"):
    """Paths of numbers that are not finite."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from problems(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from problems(item, f"{path}[{key}]")
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from problems(item, f"{path}[{place}]")
    elif isinstance(value, np.ndarray):
        if not np.isfinite(value).all():
            yield path
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield path
    elif value is not None and type(value) not in (int, bool, str):
        yield f"{path} is {type(value)}"


def unexplained(result):
    """Fields that are ``None`` in a record whose reason, or whose interval's reason, is ``None`` too."""
    if not any(field.name == "reason" for field in dataclasses.fields(result)) or result.reason is not None:
        return []
    optional = {"split_half", "deviation", "single", "vote", "difference"}
    return [
        f.name
        for f in dataclasses.fields(result)
        if f.name not in {"reason", *optional} and getattr(result, f.name) is None
    ]


def everything(probabilities, targets):
    members, _, classes = probabilities.shape
    labels, pooled = probabilities.argmax(axis=2), probabilities.mean(axis=0)
    correct, vote_labels = labels == targets, pooled.argmax(axis=1)
    vote = vote_labels == targets
    halves = stats.half_committees(members)
    soft, plurality = stats.soft_curve(probabilities, targets), stats.plurality_curve(labels, targets)
    confidences = stats.confidence_scores(probabilities)
    calibration = stats.calibrate(pooled, targets, pooled, targets)
    yield from (stats.score(pooled, targets), *stats.score_members(probabilities, targets))
    yield stats.summarize(correct.mean(axis=1))
    yield stats.wilson(int(vote.sum()), len(vote))
    yield from (stats.committee_difference(correct, vote), stats.beats_random_seed(correct, vote))
    yield from (stats.mcnemar(vote, correct[0]), stats.selection_effect(correct))
    for votes, share in (
        (stats.soft_correct_of_each(probabilities, targets, halves), vote),
        (stats.plurality_correct_of_each(labels, targets, halves), stats.plurality_correct(labels, targets)),
    ):
        yield stats.procedure_difference(correct, share, halves, votes)
    yield from (stats.variance_components(correct), stats.seed_spread(correct))
    yield from (soft, plurality)
    yield stats.forecast(soft, stats.soft_curves_without(probabilities, targets))
    yield stats.forecast(plurality, stats.plurality_curves_without(labels, targets))
    yield stats.diversity(labels, targets)
    yield from stats.agreement_table(labels, vote_labels, targets)
    yield from (calibration, *stats.reliability(pooled, targets))
    yield confidences
    yield from (stats.risk_coverage(each, vote) for each in dataclasses.astuple(confidences))
    yield from (stats.per_class(labels, vote_labels, targets, classes=classes), stats.outvoted(correct, vote))


def draw(members, samples, classes):
    generator = np.random.default_rng(0)
    targets = generator.integers(classes, size=samples)
    logits = generator.normal(size=(members, samples, classes)) * 2 + 2 * np.eye(classes)[targets]
    return softmax(logits, axis=2), targets


ORDINARY, ANSWERS = draw(6, 40, 3)
CASES = {
    "ordinary": (ORDINARY, ANSWERS),
    "one member": (ORDINARY[:1], ANSWERS),
    "two members": (ORDINARY[:2], ANSWERS),
    "three members": (ORDINARY[:3], ANSWERS),
    "equal members": (np.repeat(ORDINARY[:1], 6, axis=0), ANSWERS),
    "perfect": (np.repeat(np.eye(3)[ANSWERS][np.newaxis], 6, axis=0), ANSWERS),
    "always wrong": (np.repeat(np.eye(3)[(ANSWERS + 1) % 3][np.newaxis], 6, axis=0), ANSWERS),
    "class missing": (ORDINARY, np.where(ANSWERS == 2, 0, ANSWERS)),
    "one class": (np.ones((5, 10, 1)), np.zeros(10, dtype=int)),
    "one sample": (ORDINARY[:, :1], ANSWERS[:1]),
    "one sample, one member": (ORDINARY[:1, :1], ANSWERS[:1]),
    "uniform": (np.full((5, 20, 4), 0.25), np.arange(20) % 4),
    "float32": (ORDINARY.astype(np.float32), ANSWERS.astype(np.int32)),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_undefined_without_a_reason(name):
    for result in everything(*CASES[name]):
        assert list(problems(result)) == [], result
        assert unexplained(result) == [], result


def test_the_checks_above_can_fail():
    assert list(problems(stats.Summary(math.nan, None, 0.0, 1.0, 2))) == ["result.mean"]
    assert unexplained(stats.Interval(None, 1.0, 0.95)) == ["lower"]


def test_no_statistic_changes_its_input():
    probabilities, targets = ORDINARY.copy(), ANSWERS.copy()
    probabilities.flags.writeable = targets.flags.writeable = False
    assert len(list(everything(probabilities, targets))) > 40
