"""What training is said to take is what it takes."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from recipes import quick_recipe
from seedvote import models
from seedvote.engines import footprint as module
from seedvote.engines.footprint import data_bytes, footprint, memory_note
from seedvote.engines.fused import CACHE, Fused, default_width
from seedvote.engines.process import Process
from seedvote.engines.sequential import Sequential
from seedvote.events import Note

CPU = torch.device("cpu")
PARAMETERS = 64 * 8 + 8 + 8 * 10 + 10


def small(data, **changes):
    build = functools.partial(models.mlp, (1, 8, 8), 10, hidden=[8], dropout=0)
    return quick_recipe(data, **{"build_model": build, **changes})


@pytest.mark.parametrize(
    ("optimizer", "states"),
    [
        (functools.partial(torch.optim.SGD, lr=0.1), 0),
        (functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), 1),
        (torch.optim.AdamW, 2),
        (functools.partial(torch.optim.Adam, amsgrad=True), 3),
    ],
)
def test_weights_their_copies_gradients_and_the_state_of_the_optimizer(optimizer, states, small_digits):
    found = footprint(small(small_digits, build_optimizer=optimizer), small_digits)
    assert found.weights == 4 * PARAMETERS * (3 + 1 + states)


def test_what_a_step_holds(small_digits):
    for batch in (16, 32):
        found = footprint(small(small_digits, batch_size=batch), small_digits)
        # Inputs, hidden units after ReLU, log-probabilities and labels; and the loss's weight of one.
        assert found.step == pytest.approx(batch * (4 * (64 + 8 + 10) + 8), abs=8)
        assert found.largest == batch * 4 * 64


def measured(code):
    """Return by how many bytes the process that runs the code has grown at most, when malloc keeps no gaps."""
    # Not `ru_maxrss`, which a process has from its parent.
    told = """
from pathlib import Path
def peak():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", told + code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
def test_a_real_step_takes_what_was_worked_out(colour_images):
    build = functools.partial(models.resnet, (3, 32, 32), 4, depth=8)
    recipe = quick_recipe(colour_images, build_model=build, batch_size=128)
    found = footprint(recipe, colour_images)
    grown = measured("""
import torch
from seedvote.models import resnet
model = resnet((3, 32, 32), 4, depth=8).to(memory_format=torch.channels_last)
labels = torch.zeros(128, dtype=torch.int64)
optimizer = torch.optim.AdamW(model.parameters())
def step(count):
    inputs = torch.randn(count, 3, 32, 32).to(memory_format=torch.channels_last)
    torch.nn.functional.cross_entropy(model(inputs), labels[:count]).backward()
    optimizer.step()
step(2)
before = peak()
step(128)
print(peak() - before)
""")
    worked_out = found.step + 2 * found.largest
    assert 0.75 * worked_out < grown < 1.25 * worked_out


class Looking(nn.Module):
    """Takes a path that depends on what it sees."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs):
        return self.layer(inputs.flatten(1) if inputs.sum() > 0 else -inputs.flatten(1))


def test_a_network_that_wants_to_see_numbers_is_left_alone(small_digits):
    recipe = quick_recipe(small_digits, build_model=Looking)
    assert footprint(recipe, small_digits) is None
    assert memory_note([(1,)], 1, recipe, small_digits).startswith("memory     not known")


def test_global_generators_stay_as_they_are(small_digits):
    before = torch.get_rng_state()
    footprint(small(small_digits, build_model=functools.partial(models.mlp, (1, 8, 8), 10, dropout=0.5)), small_digits)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_note_says_how_many_train_at_a_time(small_digits):
    note = functools.partial(memory_note, recipe=small(small_digits), data=small_digits)
    assert note([(1,), (2,)], 1).endswith(" MiB for one member at a time")
    assert note([(1,), (2,), (3,)], 2).endswith(" MiB for 2 members at a time")
    assert note([(1, 2, 3)], 2).endswith(" MiB for 1 stack of 3 members at a time")
    assert note([(1, 2), (3, 4), (5,)], 2).endswith(" MiB for 2 stacks of up to 2 members at a time")


def test_the_note_counts_what_trains_at_a_time_and_what_is_computed_for_nothing(small_digits, monkeypatch):
    monkeypatch.setattr(module, "_size", str)
    recipe = small(small_digits)

    def needed(*arguments, **options):
        return int(memory_note(*arguments, recipe, small_digits, **options).split()[2])

    own = footprint(recipe, small_digits).total
    base = module.A_PROCESS + data_bytes(small_digits)
    assert needed([(1,), (2,)], 1) == base + own
    assert needed([(1, 2), (3, 4), (5,)], 2) == base + 4 * own
    assert needed([(1,), (2,)], 2, processes=2) == base + 2 * module.A_PROCESS + 2 * own
    assert needed([(1,), (2,)], 1, least={1: 4, 2: 4}) == base + 4 * own


def test_the_note_counts_the_largest_variants(small_digits, monkeypatch):
    monkeypatch.setattr(module, "_size", str)
    little = small(small_digits)
    large = dataclasses.replace(little, build_model=functools.partial(models.mlp, (1, 8, 8), 10, hidden=[99]))
    both = dataclasses.replace(little, variants=(little, large))
    alone = memory_note([(1,)], 1, large, small_digits)
    assert memory_note([(0,), (1,), (2,)], 1, both, small_digits) == alone


def test_too_little_memory_is_told_with_what_to_do(small_digits, monkeypatch):
    monkeypatch.setattr(module, "physical_memory", lambda: 2**20)
    note = memory_note([(1, 2)], 1, small(small_digits), small_digits)
    assert note.endswith("more than the 1 MiB that there are: lower batch_size, engine.workers or engine.width")


@pytest.mark.parametrize("engine", [Sequential(), Process(workers=1), Fused(workers=1)], ids=lambda one: one.name)
def test_every_engine_says_it_before_it_trains(engine, small_digits):
    first = next(engine.train([1, 2], quick_recipe(small_digits, epochs=1), small_digits, CPU))
    assert isinstance(first, Note) and first.text.startswith("memory     about ")


@pytest.mark.parametrize("batch", [16, 64])
def test_convolutional_members_are_stacked_as_far_as_the_cache_goes(batch, colour_images):
    build = functools.partial(models.resnet, (3, 32, 32), 4, depth=8)
    recipe = quick_recipe(colour_images, build_model=build, batch_size=batch)
    assert default_width(recipe, colour_images, CPU) == min(16, CACHE // (batch * 16 * 32 * 32 * 4))
    assert default_width(recipe, colour_images, torch.device("cuda")) == 16
    recipe = quick_recipe(colour_images, build_model=functools.partial(models.mlp, (3, 32, 32), 4), batch_size=batch)
    assert default_width(recipe, colour_images, CPU) == 16
