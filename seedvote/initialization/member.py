"""A member's network with its first weights."""

from __future__ import annotations

import torch
from torch import nn

from seedvote.initialization.frozen import freeze
from seedvote.seeding import Streams, restored_generators, seed_device
from seedvote.types import Recipe

CPU = torch.device("cpu")


def initial_model(recipe: Recipe, streams: Streams) -> nn.Module:
    """Build a member's network with its first weights, on the CPU, from its ``init`` stream alone.

    Frozen parts come from the stream of ``shared_seed``. All weights are drawn for both, so what is frozen changes
    nothing else.
    """
    model = _drawn(recipe, streams)
    if recipe.frozen:
        freeze(model, _drawn(recipe, Streams(recipe.shared_seed)), recipe.frozen)
    return model


def _drawn(recipe: Recipe, streams: Streams) -> nn.Module:
    """Build a network with first weights.

    Constructors draw from torch's global generator, so that is seeded for them and restored afterwards;
    the scheme then gets a generator of its own.
    """
    with restored_generators(CPU):
        seed_device(CPU, streams.number("init", 0))
        model = recipe.build_model()
        # Inside too: a user's scheme may draw from the global generator, and the member must not depend on its state.
        recipe.initialize(model, torch.Generator().manual_seed(streams.number("init", 1)))
    return model
