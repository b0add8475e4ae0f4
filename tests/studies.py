"""Comparisons of made-up members, for tests of what is computed, drawn and written."""

from __future__ import annotations

import numpy as np

from seedvote.comparison import Comparison, Cost, Plan, compare
from seedvote.stats import summarize


def made_up(
    members: int, samples: int, classes: int = 4, *, seed: int = 0, skill: float = 1.5, own: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``[M, S, C]`` and targets ``[S]``: what all members see, and noise of each member's own."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, samples)
    common = generator.normal(size=(samples, classes))
    common[np.arange(samples), targets] += skill
    return (common + own * generator.normal(size=(members, samples, classes))).astype(np.float32), targets


def cost(members: int, samples: int) -> Cost:
    """Costs that differ between members."""
    training, inference = summarize(1 + m for m in range(members)), summarize(0.01 for _ in range(members))
    total = float(sum(1 + m for m in range(members)))
    return Cost(training, total, inference, 0.01 * members, samples, ("sequential",), ("cpu",), ("cpu",))


def studied(validation, test, *, names=None, **plan) -> Comparison:
    """Compare members of seeds 10, 11, ... with their vote."""
    members, samples, classes = test[0].shape
    return compare(
        validation,
        test,
        seeds=tuple(range(10, 10 + members)),
        classes=names or [f"c{label}" for label in range(classes)],
        cost=cost(members, samples),
        plan=Plan(**plan),
    )


def study(members: int = 5, samples: int = 300, classes: int = 4, *, seed: int = 0, skill=1.5, own=1.0, **plan):
    """Compare made-up members."""
    validation = made_up(members, samples // 2, classes, seed=seed + 1000, skill=skill, own=own)
    return studied(validation, made_up(members, samples, classes, seed=seed, skill=skill, own=own), **plan)
