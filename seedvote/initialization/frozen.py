"""Parts of a network that are not trained and the same in all members."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from seedvote.errors import listed
from seedvote.initialization.patterns import is_matched, no_match
from seedvote.initialization.whole import owners


@torch.no_grad()
def freeze(model: nn.Module, shared: nn.Module, patterns: Sequence[str]) -> None:
    """Give the parameters that a pattern matches the weights that they have in another network, and train them no more.

    Parameters alone: the running mean and variance of a BatchNorm go on being measured.

    Raises:
        ValueError: with one line for each pattern that matches nothing; or nothing is left to train.
    """
    named = [(module, name) for module, own in owners(model) for name in own]
    problems = [
        no_match(f"frozen[{place}]", pattern, named)
        for place, pattern in enumerate(patterns)
        if not any(is_matched(pattern, module, name) for module, name in named)
    ]
    if problems:
        raise ValueError("\n".join(problems))
    weights = dict(shared.named_parameters())
    for module, own in owners(model):
        for name, parameter in own.items():
            if any(is_matched(pattern, module, name) for pattern in patterns):
                parameter.copy_(weights[name])
                parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"frozen=[{listed(patterns)}] leaves nothing of the network to train: freeze less")
