"""A keeper that keeps nothing and notes the first step; in a module of its own, for worker processes to import."""

from __future__ import annotations

from engine_benchmark.contestants import StepMark
from seedvote.training import Unkept


class Watching(Unkept):
    """Keeps nothing; engines ask it after each step whether to save."""

    def __init__(self, mark: StepMark) -> None:
        """Note the first step with ``mark``."""
        self.mark = mark

    def due(self, epoch_over: bool) -> bool:
        """Never save; note that a step was taken."""
        if not epoch_over:
            self.mark.step()
        return False
