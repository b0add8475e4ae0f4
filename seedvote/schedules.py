"""Learning-rate schedules, stepped once a batch.

A schedule takes the optimizer and the total number of steps and returns a torch scheduler.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """Keep the learning rate as it is."""
    return LambdaLR(optimizer, lambda _: 1.0)


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.1, final: float = 0.0) -> LambdaLR:
    """Rise linearly over the first steps, then fall along half a cosine (Loshchilov and Hutter, 2017).

    With ``w`` warm-up steps of ``T``, the factor at step ``t`` (from 0) is ``(t + 1) / (w + 1)`` while ``t < w``, then
    ``final + (1 - final) (1 + cos(pi (t - w) / (T - w))) / 2``.

    warmup: the part of all steps that is warm-up, 0 .. 1. final: the factor that is fallen to.

    Raises:
        ValueError: ``warmup`` or ``final`` is not in 0 .. 1.
    """
    for name, value in (("warmup", warmup), ("final", final)):
        if not 0 <= value <= 1:
            raise ValueError(f"scheduler.{name} must be from 0 to 1, got {value}")
    rise = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        progress = (step - rise) / max(1, total_steps - rise)
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)
