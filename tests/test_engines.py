"""The contract that every engine keeps; ``ENGINES`` lists them."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from recipes import DivergesFor, quick_recipe
from seedvote import augmentation, models
from seedvote.engines.sequential import Sequential
from seedvote.seeding import Streams
from seedvote.training import train_member
from seedvote.types import Progress

CPU = torch.device("cpu")
ENGINES = {"sequential": Sequential}


@pytest.fixture(params=ENGINES)
def engine(request):
    return ENGINES[request.param]()


def recipes(data):
    shape, classes = data.input_shape, len(data.classes)
    images = functools.partial(augmentation.images, crop=1, rotate=5.0)
    return {
        "mlp": quick_recipe(data, augment=images, clip_norm=1.0),
        "resnet": quick_recipe(
            data,
            build_model=functools.partial(models.resnet, shape, classes, depth=8, width=4),
            build_optimizer=functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
        ),
    }


def members(engine, seeds, recipe, data):
    finished = {}
    for event in engine.train(seeds, recipe, data, CPU):
        if not isinstance(event, Progress):
            finished[event.seed] = event
    return finished


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("model", ["mlp", "resnet"])
def test_a_member_does_not_depend_on_the_others(engine, model, small_digits):
    recipe = recipes(small_digits)[model]
    alone = members(engine, [7], recipe, small_digits)[7]
    among = members(engine, [3, 7, 0], recipe, small_digits)
    assert set(among) == {0, 3, 7}
    assert same(alone.state, among[7].state)
    assert not same(alone.state, among[0].state)


@pytest.mark.parametrize("model", ["mlp", "resnet"])
def test_members_are_those_of_the_plain_loop(engine, model, small_digits):
    recipe = recipes(small_digits)[model]
    *_, expected = train_member(5, recipe, small_digits, CPU)
    assert same(members(engine, [4, 5], recipe, small_digits)[5].state, expected.state)


def test_every_epoch_of_every_member_is_reported(engine, small_digits):
    events = list(engine.train([1, 2], quick_recipe(small_digits), small_digits, CPU))
    reported = [(event.seed, event.record.epoch) for event in events if isinstance(event, Progress)]
    assert sorted(reported) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_a_member_that_diverges_harms_nobody(engine, small_digits):
    plain = quick_recipe(small_digits)
    bad = Streams(2).number("init", 0)

    def build():
        diverges = torch.initial_seed() == bad
        return DivergesFor(plain.build_model(), batches=3 if diverges else 10**9)

    recipe = dataclasses.replace(plain, build_model=build)
    found = members(engine, [1, 2, 3], recipe, small_digits)
    assert [seed for seed, member in found.items() if member.diverged] == [2]
    for seed in (1, 3):
        assert same(members(engine, [seed], recipe, small_digits)[seed].state, found[seed].state)
