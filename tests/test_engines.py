"""The contract that every engine keeps; ``ENGINES`` lists them."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing

import pytest
import torch

import recipes as recipes_module
from recipes import quick_recipe
from seedvote import augmentation, models
from seedvote.engines.process import Process
from seedvote.engines.sequential import Sequential
from seedvote.training import train_member
from seedvote.types import Failure, Progress, TrainedMember

CPU = torch.device("cpu")
ENGINES = {"sequential": Sequential, "process": functools.partial(Process, workers=2)}


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


def special(plain, make, seed=2):
    return dataclasses.replace(
        plain, build_model=functools.partial(recipes_module.build_for_seed, seed, make, plain.build_model)
    )


def test_a_member_that_diverges_harms_nobody(engine, small_digits):
    plain = quick_recipe(small_digits)
    found = members(engine, [1, 2, 3], special(plain, recipes_module.diverging), small_digits)
    assert [seed for seed, member in found.items() if member.diverged] == [2]
    # With a batch counter among the buffers, but otherwise the members that they are by themselves.
    alone = members(Sequential(), [1, 3], plain, small_digits)
    for seed in (1, 3):
        for name, tensor in alone[seed].state.items():
            assert torch.equal(found[seed].state[f"network.{name}"], tensor)


def test_no_seeds_are_no_work(engine, small_digits):
    assert list(engine.train([], quick_recipe(small_digits), small_digits, CPU)) == []


def failures(events):
    return [event for event in events if isinstance(event, Failure)]


def test_an_error_in_a_worker_is_reported_and_the_others_go_on(small_digits):
    recipe = special(quick_recipe(small_digits), recipes_module.failing)
    events = list(Process(workers=2).train([1, 2, 3], recipe, small_digits, CPU))
    assert failures(events) == [Failure(2, "RuntimeError: no luck today", retried=False)]
    assert {event.seed for event in events if isinstance(event, TrainedMember)} == {1, 3}


def test_a_worker_that_dies_is_replaced_and_its_member_tried_once_more(small_digits, tmp_path):
    plain = quick_recipe(small_digits)
    recipe = special(plain, functools.partial(recipes_module.dying_once, tmp_path / "died"))
    events = list(Process(workers=1).train([2, 1], recipe, small_digits, CPU))
    assert failures(events) == [Failure(2, "its process was ended by signal SIGKILL", retried=True)]
    found = {event.seed: event for event in events if isinstance(event, TrainedMember)}
    assert set(found) == {1, 2}
    assert same(found[2].state, members(Sequential(), [2], plain, small_digits)[2].state)


def test_a_member_that_kills_its_worker_twice_is_given_up(small_digits):
    recipe = special(quick_recipe(small_digits), recipes_module.dying)
    events = list(Process(workers=1).train([2, 1], recipe, small_digits, CPU))
    reason = "its process was ended by signal SIGKILL"
    assert failures(events) == [Failure(2, reason, retried=True), Failure(2, reason, retried=False)]
    assert [event.seed for event in events if isinstance(event, TrainedMember)] == [1]


def test_workers_end_when_nobody_listens_any_more(small_digits):
    events = Process(workers=2).train([1, 2, 3], quick_recipe(small_digits, epochs=50), small_digits, CPU)
    next(events)
    children = multiprocessing.active_children()
    assert len(children) == 2
    events.close()
    assert multiprocessing.active_children() == []


def test_a_number_of_workers_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="engine.workers must be at least 1"):
        Process(workers=0)
