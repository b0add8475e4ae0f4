"""Recipes that are quick to train, for tests."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seedvote import augmentation, initialization, models, schedules
from seedvote.optimization import in_one_pass
from seedvote.seeding import Streams
from seedvote.types import Data, Recipe


def quick_recipe(data: Data, **changes: Any) -> Recipe:
    """An MLP with dropout for two epochs, with any field changed."""
    build_model = functools.partial(
        models.mlp, input_shape=data.input_shape, n_classes=len(data.classes), hidden=[32], dropout=0.2
    )
    fields: dict[str, Any] = {
        "build_model": build_model,
        "initialize": initialization.default,
        "augment": augmentation.none,
        "build_optimizer": in_one_pass(functools.partial(torch.optim.AdamW, lr=0.01)),
        "build_scheduler": schedules.warmup_cosine,
        "epochs": 2,
        "batch_size": 32,
        "label_smoothing": 0.0,
        "clip_norm": None,
        "decay_all": False,
        "patience": None,
        "vary": ("init", "order", "augment", "dropout", "sample"),
        "shared_seed": 0,
    }
    return Recipe(**{**fields, **changes})


class DivergesFor(torch.nn.Module):
    """A network whose loss becomes infinite once it has seen so many batches, if its first weight is chosen so."""

    def __init__(self, network: torch.nn.Module, batches: int) -> None:
        super().__init__()
        self.network = network
        self.batches = batches
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = self.network(inputs)
        if self.training:
            self.seen += 1
        return logits * torch.where(self.seen > self.batches, torch.inf, 1.0)


def build_for_seed(
    special: int, make: Callable[[torch.nn.Module, bool], torch.nn.Module], build_model: Callable[[], torch.nn.Module]
) -> torch.nn.Module:
    """Build a network that knows whether it belongs to one special seed: by the generator it is drawn from."""
    is_special = torch.initial_seed() == Streams(special).number("init", 0)
    return make(build_model(), is_special)


def doubled(build_model: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """Build a network that computes in float64."""
    return build_model().double()


def in_float64(recipe: Recipe) -> Recipe:
    """The same recipe for networks that compute in float64."""
    return dataclasses.replace(recipe, build_model=functools.partial(doubled, recipe.build_model))


def nudged(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Move every first weight by one unit in the last place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.nextafter(parameter, torch.tensor(torch.inf)))


def signs(module: torch.nn.Module, name: str, tensor: torch.Tensor, generator: torch.Generator, size: float) -> None:
    """Draw plus or minus one size."""
    tensor.copy_(size * (torch.rand(tensor.shape, generator=generator) - 0.5).sign())


def one_after_the_other(
    first: Callable[..., None], second: Callable[..., None], model: torch.nn.Module, generator: torch.Generator
) -> None:
    """Apply two schemes to one network."""
    first(model, generator)
    second(model, generator)


def exploding(special: int, model: torch.nn.Module, generator: torch.Generator) -> None:
    """Give the member of one seed first weights that are finite, but whose products are not."""
    if generator.initial_seed() == Streams(special).number("init", 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1e37)


def failing(network: torch.nn.Module, is_special: bool) -> torch.nn.Module:
    """Raise where the network is built."""
    if is_special:
        raise RuntimeError("no luck today")
    return network


def dying_once(marker: Path, network: torch.nn.Module, is_special: bool) -> torch.nn.Module:
    """Kill the process the first time."""
    if is_special and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return network


def dying(network: torch.nn.Module, is_special: bool) -> torch.nn.Module:
    """Kill the process each time."""
    if is_special:
        os.kill(os.getpid(), signal.SIGKILL)
    return network
