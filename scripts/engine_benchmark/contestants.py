"""The contestants: each trains N members of a case, in a process of its own, and tells when which epoch was over.

A contestant is ``train(job, recipe, data, clock)``; it returns the members' last weights, by seed, under the names that
the torch network gives them. The clock runs from data in memory to trained members.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_benchmark.cases import EVALUATION_BATCH, Case, prepared

PLAIN, ONE_THREAD = "plain loop", "plain loop, one thread"
ENGINES = ("sequential", "process", "fused", "auto")
TORCHENSEMBLE = ("TorchEnsemble", "TorchEnsemble, jobs")
JAX = "JAX vmap"
CONTESTANTS = (PLAIN, ONE_THREAD, *ENGINES, *TORCHENSEMBLE, JAX)
NEEDED = {**dict.fromkeys(TORCHENSEMBLE, ("torchensemble",)), JAX: ("jax", "optax")}


def missing(contestant: str) -> list[str]:
    """Return the packages that a contestant needs and this environment lacks."""
    return [name for name in NEEDED.get(contestant, ()) if importlib.util.find_spec(name) is None]


def takes_part(contestant: str, case: Case) -> bool:
    """Say whether a contestant can train a case: the JAX loop is written for the MLP alone."""
    return contestant != JAX or case.model == "mlp"


@dataclass
class StepMark:
    """Notes when a process took its first step; goes to workers, whose clock is the same one."""

    place: Path
    noted: bool = False

    def step(self) -> None:
        """Note the time, once in each process."""
        if not self.noted:
            self.noted = True
            (self.place / f"first-step-{os.getpid()}").write_text(repr(time.monotonic()))


@dataclass
class Clock:
    """When a contestant began, and when which member ended which epoch (seconds since then)."""

    place: Path
    started: float = 0.0
    epochs: list[tuple[int, float]] = field(default_factory=list)
    compiling: float | None = None

    def start(self) -> StepMark:
        """Begin; what is imported and loaded by now does not count."""
        self.started = time.monotonic()
        return StepMark(self.place)

    def epoch(self, seed: int) -> None:
        """Note that a member ended an epoch, validation included."""
        self.epochs.append((seed, time.monotonic() - self.started))

    def first_step(self) -> float | None:
        """Return when the first step of any process was over."""
        times = [float(file.read_text()) for file in self.place.glob("first-step-*")]
        return min(times) - self.started if times else None


def compete(job: Mapping[str, Any]) -> None:
    """Be one contestant: train, and leave weights and times in the directory ``job["place"]``."""
    case = Case(**{**job["case"], "options": tuple(job["case"]["options"])})
    contestant, place = job["contestant"], Path(job["place"])
    clock = Clock(place)
    seeds = list(range(job["members"]))
    if contestant == JAX:
        from safetensors.numpy import save_file

        from engine_benchmark.jax_members import train_by_jax

        members = train_by_jax(seeds, case, np_splits(Path(job["prepared"])), clock)
    else:
        from safetensors.torch import save_file

        recipe, data = prepared(case, Path(job["file"]))
        members = _trainer(contestant)(contestant, seeds, recipe, data, clock)
    seconds = time.monotonic() - clock.started
    assert sorted(members) == seeds
    result = {"seconds": seconds, "epochs": clock.epochs, "first_step": clock.first_step(), "compile": clock.compiling}
    (place / "result.json").write_text(json.dumps(result))
    for seed, state in members.items():
        save_file(dict(state), place / f"member-{seed}.safetensors")


def np_splits(file: Path) -> dict[str, Any]:
    """Read the normalised splits for a contestant that does without torch."""
    import numpy as np

    with np.load(file, allow_pickle=False) as contents:
        return dict(contents)


def _trainer(contestant: str) -> Callable[..., dict[int, Any]]:
    if contestant in TORCHENSEMBLE:
        from engine_benchmark.torchensemble_members import train_by_torchensemble

        return train_by_torchensemble
    return by_engine if contestant in ENGINES else by_plain_loop


def by_engine(contestant: str, seeds: list[int], recipe: Any, data: Any, clock: Clock) -> dict[int, Any]:
    """Train with an engine of seedvote, set up as its command does, with one thread a member, and store nothing."""
    import torch

    from seedvote.engines.auto import Auto
    from seedvote.engines.fused import Fused
    from seedvote.engines.process import Process
    from seedvote.engines.sequential import Sequential
    from seedvote.events import Failure, Progress
    from seedvote.matmul import choose_matmul
    from seedvote.types import TrainedMember

    engines: dict[str, Any] = {"sequential": Sequential, "process": Process, "fused": Fused, "auto": Auto}
    torch.set_num_threads(1)
    choose_matmul("auto")
    engine = engines[contestant]()
    members = {}
    mark = clock.start()
    for event in engine.train(seeds, recipe, data, torch.device("cpu"), _watching(mark)):
        if isinstance(event, Progress):
            clock.epoch(event.seed)
        elif isinstance(event, TrainedMember):
            members[event.seed] = event.state
        elif isinstance(event, Failure):
            raise RuntimeError(f"seed {event.seed}: {event.reason}")
    return members


def _watching(mark: StepMark) -> Any:
    """Return a keeper that keeps nothing and notes the first step."""
    from engine_benchmark.keeper import Watching

    return Watching(mark)


def by_plain_loop(contestant: str, seeds: list[int], recipe: Any, data: Any, clock: Clock) -> dict[int, Any]:
    """Train one member after another the way PyTorch's tutorials do."""
    import torch
    from torch.utils.data import DataLoader

    if contestant == ONE_THREAD:
        torch.set_num_threads(1)
    members = {}
    mark = clock.start()
    train, validation = tensor_sets(data)
    for seed in seeds:
        torch.manual_seed(seed)
        model = recipe.build_model()
        optimizer = recipe.build_optimizer(model.parameters(), fused=None)  # as torch has it where nothing is said
        scheduler = recipe.build_scheduler(optimizer, recipe.epochs)
        criterion = torch.nn.CrossEntropyLoss()
        train_loader = DataLoader(train, batch_size=recipe.batch_size, shuffle=True)
        validation_loader = DataLoader(validation, batch_size=EVALUATION_BATCH)
        for _ in range(recipe.epochs):
            model.train()
            running_loss = 0.0
            for inputs, labels in train_loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs), labels)
                loss.backward()
                optimizer.step()
                running_loss += loss.item() * len(labels)
                mark.step()
            scheduler.step()
            model.eval()
            validation_loss, correct = 0.0, 0
            with torch.no_grad():
                for inputs, labels in validation_loader:
                    logits = model(inputs)
                    validation_loss += criterion(logits, labels).item() * len(labels)
                    correct += (logits.argmax(1) == labels).sum().item()
            clock.epoch(seed)
        members[seed] = model.state_dict()
    return members


def tensor_sets(data: Any) -> list[Any]:
    """Return training and validation split as data sets of normalised tensors."""
    from torch.utils.data import TensorDataset

    from seedvote.data import normalized

    return [
        TensorDataset(normalized(split.inputs, data.normalization), split.labels)
        for split in (data.train, data.validation)
    ]
