"""TorchEnsemble's ``VotingClassifier``, set up as its documentation has it.

``n_jobs`` is the only setting that its documentation names for speed: unset, as in its examples, members are trained
one after another in this process, above 1 in so many processes of joblib. Both take part. Validation data is given, as
in its examples, so each epoch ends with a vote. It saves a checkpoint by default; nobody here saves, so this is off.
Class names are given with the data, or it would first read all of them to count the classes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from engine_benchmark.cases import EVALUATION_BATCH
from engine_benchmark.contestants import TORCHENSEMBLE, Clock, StepMark, tensor_sets


class Estimator(nn.Module):
    """A network of a case as a class, which TorchEnsemble wants, for members to differ in their first weights."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        """Draw first weights from torch's global generator."""
        super().__init__()
        self.network = build()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.network(inputs)
        return logits


class WatchedLoss(nn.CrossEntropyLoss):
    """Cross-entropy that notes when it is asked a second time: the first step is over then."""

    def __init__(self, mark: StepMark) -> None:
        """Note the first step with ``mark``."""
        super().__init__()
        self.mark, self.asked = mark, False

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss."""
        if self.asked:
            self.mark.step()
        self.asked = True
        return super().forward(logits, labels)


class EpochWatch(logging.Handler):
    """Hears TorchEnsemble say that an epoch was validated: all members ended it."""

    def __init__(self, clock: Clock, members: int) -> None:
        """Note the epochs of so many members with ``clock``."""
        super().__init__()
        self.clock, self.members = clock, members

    def emit(self, record: logging.LogRecord) -> None:
        """Note the end of an epoch."""
        if record.getMessage().startswith("Epoch:"):
            for seed in range(self.members):
                self.clock.epoch(seed)


def train_by_torchensemble(contestant: str, seeds: list[int], recipe: Any, data: Any, clock: Clock) -> dict[int, Any]:
    """Train all members with one ``fit``."""
    from torchensemble import VotingClassifier

    together = contestant == TORCHENSEMBLE[1]
    workers = min(len(os.sched_getaffinity(0)), len(seeds))
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger().addHandler(EpochWatch(clock, len(seeds)))
    mark = clock.start()
    torch.manual_seed(0)
    train, validation = tensor_sets(data)
    train.classes = data.classes
    ensemble = VotingClassifier(
        estimator=Estimator,
        estimator_args={"build": recipe.build_model},
        n_estimators=len(seeds),
        cuda=False,
        n_jobs=workers if together else None,
    )
    name, numbers = settings(recipe)
    ensemble.set_criterion(WatchedLoss(mark))
    ensemble.set_optimizer(name, **numbers)
    ensemble.set_scheduler("CosineAnnealingLR", T_max=recipe.epochs)
    with contextlib.redirect_stdout(io.StringIO()):
        ensemble.fit(
            DataLoader(train, batch_size=recipe.batch_size, shuffle=True),
            epochs=recipe.epochs,
            test_loader=DataLoader(validation, batch_size=EVALUATION_BATCH),
            save_model=False,
        )
    return {
        seed: {name: tensor.clone() for name, tensor in estimator.network.state_dict().items()}
        for seed, estimator in zip(seeds, ensemble.estimators_, strict=True)
    }


def settings(recipe: Any) -> tuple[str, dict[str, Any]]:
    """Return the recipe's optimizer by its name in torch, and what is not its default."""
    optimizer = recipe.build_optimizer([nn.Parameter(torch.zeros(1))], fused=None)
    standard = type(optimizer)([nn.Parameter(torch.zeros(1))])
    numbers = {key: value for key, value in optimizer.defaults.items() if value != standard.defaults[key]}
    return type(optimizer).__name__, numbers
