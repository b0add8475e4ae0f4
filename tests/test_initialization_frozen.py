"""`frozen=`: parameters that are the same in all members and stay as they were drawn."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from safetensors.torch import load_file
from test_engines import distance, in_float64, members

from recipes import quick_recipe
from seedvote import models
from seedvote.engines.fused import Fused
from seedvote.engines.process import Process
from seedvote.engines.sequential import Sequential
from seedvote.initialization import initial_model
from seedvote.seeding import Streams


def first_weights(recipe, seed):
    return initial_model(recipe, Streams(seed, recipe.vary, recipe.shared_seed)).state_dict()


def test_frozen_weights_are_those_of_the_shared_seed_and_nothing_else_changes(small_digits):
    plain = quick_recipe(small_digits, shared_seed=5)
    recipe = dataclasses.replace(plain, frozen=("1.*",))
    shared = first_weights(plain, 5)
    for seed in (0, 1, 5):
        own, usual = first_weights(recipe, seed), first_weights(plain, seed)
        for name, tensor in own.items():
            assert torch.equal(tensor, (shared if name.startswith("1.") else usual)[name])
    assert not torch.equal(first_weights(plain, 0)["1.weight"], shared["1.weight"])


@pytest.mark.parametrize(("patterns", "frozen"), [
    (("Conv2d",), {"0.weight", "0.bias", "3.weight", "3.bias"}),
    (("Linear.bias", "0.weight"), {"0.weight", "7.bias", "9.bias", "11.bias"}),
    (("[03].*", "9.weight"), {"0.weight", "0.bias", "3.weight", "3.bias", "9.weight"}),
])  # fmt: skip
def test_parts_are_named_by_parameter_or_by_class_of_layer(patterns, frozen, colour_images):
    build = functools.partial(models.lenet, (3, 32, 32), 4)
    model = initial_model(quick_recipe(colour_images, build_model=build, frozen=patterns), Streams(1))
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == frozen


@pytest.mark.parametrize("engine", [Sequential(), Process(workers=1), Fused(workers=1)], ids=lambda one: one.name)
def test_training_leaves_frozen_weights_alone_whatever_the_decay(engine, small_digits):
    optimizer = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.5)
    recipe = quick_recipe(
        small_digits, build_optimizer=optimizer, decay_all=True, clip_norm=1.0, frozen=("1.*",), epochs=1
    )
    start = {seed: first_weights(recipe, seed) for seed in (0, 1)}
    for seed, member in members(engine, [0, 1], recipe, small_digits).items():
        for name, tensor in member.state.items():
            assert torch.equal(tensor, start[seed][name]) == name.startswith("1.")
            assert torch.equal(tensor, start[0][name]) == name.startswith("1.")


@pytest.mark.parametrize("build", [
    functools.partial(models.mlp, (1, 8, 8), 10, [16], 0.2),
    functools.partial(models.resnet, (1, 8, 8), 10, depth=8, width=4),
], ids=["mlp", "resnet"])  # fmt: skip
def test_stacked_members_freeze_the_same(build, small_digits):
    frozen = ("*1.weight", "BatchNorm2d") if build.func is models.resnet else ("1.weight",)
    recipe = in_float64(quick_recipe(small_digits, build_model=build, clip_norm=0.5, frozen=frozen))
    expected = members(Sequential(), [1, 2], recipe, small_digits)
    found = members(Fused(workers=1), [1, 2], recipe, small_digits)
    assert {member.engine for member in found.values()} == {"fused"}
    for seed, member in expected.items():
        assert distance(found[seed].state, member.state) < 1e-12


def test_the_running_statistics_of_a_frozen_norm_go_on(small_digits):
    build = functools.partial(models.resnet, small_digits.input_shape, 10, depth=8, width=4)
    recipe = quick_recipe(small_digits, build_model=build, frozen=("BatchNorm2d",), epochs=1)
    state = members(Sequential(), [0], recipe, small_digits)[0].state
    assert torch.equal(state["1.weight"], torch.ones(4)) and torch.equal(state["1.bias"], torch.zeros(4))
    assert state["1.running_mean"].abs().min() > 0


def test_from_the_command_line_to_stored_members(call, workplace):
    quick = ["data.limit=60", "epochs=1", "n_seeds=2", "model.hidden=[16]", "run=it"]
    outcome = call("train", "frozen=['1.weight',Linear.bias]", *quick)
    assert outcome.status == 0, outcome.err
    run = workplace / "checkpoints" / "it"
    one, other = (load_file(run / f"seed-000{seed}" / "model.safetensors") for seed in (0, 1))
    assert {name for name in one if torch.equal(one[name], other[name])} == {"1.weight", "1.bias", "4.bias"}
    assert call("predict", "run=it").status == 0
    assert "another recipe" in call("train", *quick).err


@pytest.mark.parametrize(("frozen", "words"), [
    ("[Liner]", "frozen[0] matches nothing: 'Liner' is not known: did you mean 'Linear'?"),
    ("[Linear]", "frozen=[Linear] leaves nothing of the network to train: freeze less"),
    ("Linear", "frozen=Linear: frozen is a list, write frozen=[Linear]"),
])  # fmt: skip
def test_what_cannot_be_frozen_stops_the_command_before_anything_is_written(frozen, words, call, workplace):
    outcome = call("train", f"frozen={frozen}")
    assert outcome.status == 2
    assert words in outcome.err
    assert list(workplace.iterdir()) == []
