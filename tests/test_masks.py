"""Dropout's factors for stacked members, against `torch.nn.Dropout` for a member alone."""

from __future__ import annotations

import pytest
import torch

from seedvote.engines import masks
from seedvote.engines.masks import dropout_masks

CPU = torch.device("cpu")
NUMBERS = [5, 2**32 - 1, 2**63 + 7]


def alone(number, shape, probabilities, dtype):
    """What layers of dropout make of ones, one after the other."""
    ones = torch.ones(shape, dtype=dtype)
    if ones.ndim == 4:
        ones = ones.to(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)
        return [torch.nn.Dropout(probability)(ones) for probability in probabilities]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(64, 512), (7, 3), (32, 5, 8, 8), (16, 1, 28, 28), (33, 64, 1, 1), (2, 3, 2, 2)])
def test_a_member_drops_what_it_would_drop_alone(shape, dtype, quick, monkeypatch):
    monkeypatch.setattr(masks, "WORTH_IT", 1 if quick else 10**9)
    probabilities = (0.2, 0.5, 0.37, 0.999)
    draw = dropout_masks(NUMBERS, CPU)
    if len(shape) == 4:
        like = torch.empty(shape[0], len(NUMBERS) * shape[1], *shape[2:], dtype=dtype)
        found = [draw(like, probability).unflatten(1, (len(NUMBERS), -1)).unbind(1) for probability in probabilities]
    else:
        found = [draw(torch.empty(len(NUMBERS), *shape, dtype=dtype), probability) for probability in probabilities]
    for place, number in enumerate(NUMBERS):
        for layer, expected in enumerate(alone(number, shape, probabilities, dtype)):
            assert torch.equal(found[layer][place], expected)


def test_the_quick_way_is_taken_and_only_where_it_makes_bernoullis_draws(monkeypatch):
    assert masks._bits_are_bernoullis()
    taken = []
    own = masks._compared
    monkeypatch.setattr(masks, "_compared", lambda *arguments: taken.append(1) or own(*arguments))
    first = dropout_masks(NUMBERS, CPU)(torch.empty(3, 64, 64), 0.3)
    assert len(taken) == 1
    monkeypatch.setattr(masks, "_bits_are_bernoullis", lambda: False)
    assert torch.equal(dropout_masks(NUMBERS, CPU)(torch.empty(3, 64, 64), 0.3), first)
    assert len(taken) == 1
