"""The contract that every engine keeps; ``ENGINES`` lists them."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import threading
import time

import pytest
import torch

import recipes as recipes_module
from recipes import in_float64, quick_recipe
from seedvote import augmentation, interruption, models, schedules
from seedvote.engines import fused, group, threads
from seedvote.engines.auto import CROWDING, FEWEST, STARTING_A_WORKER, TIMED, WARM_UP, Auto, estimates, seconds_a_step
from seedvote.engines.fused import Fused, groups
from seedvote.engines.process import Process
from seedvote.engines.sequential import Sequential
from seedvote.events import Failure, Note, Progress
from seedvote.training import train_member
from seedvote.types import TrainedMember

CPU = torch.device("cpu")
ENGINES = {
    "sequential": Sequential,
    "process": functools.partial(Process, workers=2),
    "fused": functools.partial(Fused, workers=1),
    "threads": functools.partial(Fused, width=2, workers=2),
}


@pytest.fixture(params=ENGINES)
def engine(request):
    return ENGINES[request.param]()


def each_epoch(optimizer, total_steps):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)


def recipes(data):
    shape, classes = data.input_shape, len(data.classes)
    images = functools.partial(augmentation.images, crop=1, rotate=5.0)
    return {
        "mlp": quick_recipe(data, augment=images, clip_norm=1.0),
        "lenet": quick_recipe(
            data,
            build_model=functools.partial(models.lenet, (3, 32, 32), classes, dropout=0.3, pooling_dropout=0.1),
            l1=1e-3,
            clip_norm=1.0,
            max_norm=0.5,
        ),
        "regularised": quick_recipe(
            data,
            build_model=functools.partial(models.mlp, shape, classes, hidden=[16], dropout=0.3, input_dropout=0.2),
            build_optimizer=functools.partial(torch.optim.RMSprop, lr=0.01, momentum=0.5),
            build_scheduler=each_epoch,
            interval="epoch",
            l1=1e-3,
            clip_value=0.02,
            max_norm=0.7,
            decay_all=True,
        ),
        "bootstrap": quick_recipe(data, bootstrap=True),
        "torchvision": quick_recipe(
            data,
            epochs=1,
            build_optimizer=functools.partial(torch.optim.SGD, lr=0.01),
            build_model=functools.partial(models.torchvision_model, (3, 32, 32), classes, "resnet18"),
        ),
        "resnet": quick_recipe(
            data,
            build_model=functools.partial(models.resnet, shape, classes, depth=8, width=4),
            build_optimizer=functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
        ),
        **{f"{norm} mlp": quick_recipe(data, build_model=normed(models.mlp, norm)) for norm in ("batch", "layer")},
        "group mlp": quick_recipe(data, build_model=normed(models.mlp, "group"), label_smoothing=0.1),
        **{
            f"{norm} cnn": quick_recipe(data, build_model=normed(models.constrained_time_cnn, norm), epochs=1)
            for norm in ("batch", "layer", "instance", "group", "none")
        },
        "densenet": quick_recipe(data, build_model=normed(models.densenet, "batch"), epochs=1),
        "in place": quick_recipe(data, build_model=in_place),
    }


def in_place():
    """Activations that change their input, and slopes by channel."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, bias=False), torch.nn.BatchNorm2d(3), torch.nn.PReLU(3), torch.nn.Conv2d(3, 5, 3),
        torch.nn.SiLU(inplace=True), torch.nn.Flatten(), torch.nn.Linear(80, 31), torch.nn.ELU(inplace=True),
        torch.nn.PReLU(31), torch.nn.Linear(31, 10),
    )  # fmt: skip


def normed(build, norm):
    """A network with widths that are no multiples of what a processor takes at once."""
    options = {
        models.mlp: {"hidden": [30, 12], "activation": "prelu"},
        models.constrained_time_cnn: {"budget": 24_192, "depth": 3, "activation": "prelu"},  # 6, 12 and 24 channels
        models.densenet: {"depth": 10, "growth": 5, "dropout": 0.2, "activation": "silu"},
    }
    return functools.partial(build, (1, 8, 8), 10, norm=norm, **options[build])


NORMED = [
    "batch mlp", "layer mlp", "group mlp", "batch cnn", "layer cnn", "instance cnn", "group cnn", "none cnn",
    "densenet", "in place",
]  # fmt: skip


def members(engine, seeds, recipe, data):
    finished = {}
    for event in engine.train(list(seeds), recipe, data, CPU):
        if isinstance(event, TrainedMember):
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
@pytest.mark.parametrize("others", [1, 2, 9, 10])
def test_a_stacked_member_does_not_depend_on_its_place_and_company(model, others, small_digits):
    recipe = dataclasses.replace(recipes(small_digits)[model], epochs=1)
    alone = members(Fused(workers=1), [7], recipe, small_digits)[7]
    for place in (0, others // 2, others):
        seeds = list(range(100, 100 + others))
        seeds.insert(place, 7)
        assert same(members(Fused(workers=1), seeds, recipe, small_digits)[7].state, alone.state)


@pytest.mark.parametrize("model", NORMED)
def test_no_norm_or_slope_makes_stacked_members_depend_on_each_other(model, small_digits):
    recipe = dataclasses.replace(recipes(small_digits)[model], epochs=1)
    alone = members(Fused(workers=1), [7], recipe, small_digits)[7]
    assert alone.engine == "fused"
    for seeds in ([100, 7, 101], [100, 101, 102, 7], [*range(100, 109), 7]):
        assert same(members(Fused(workers=1), seeds, recipe, small_digits)[7].state, alone.state)


@pytest.mark.parametrize("model", ["mlp", "resnet", "bootstrap"])
@pytest.mark.parametrize("name", ["sequential", "process"])
def test_members_are_those_of_the_plain_loop(name, model, small_digits):
    recipe = recipes(small_digits)[model]
    *_, expected = train_member(5, recipe, small_digits, CPU)
    assert same(members(ENGINES[name](), [4, 5], recipe, small_digits)[5].state, expected.state)


@pytest.mark.parametrize("one_pass", [True, False])  # which rounds by place: then each member has its own part
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_members_of_a_stacked_optimizer_are_their_own(kind, one_pass, small_digits):
    build = functools.partial(kind, lr=0.01, weight_decay=0.1, fused=one_pass)
    recipe = quick_recipe(small_digits, clip_norm=0.5, build_optimizer=build)
    expected = members(Sequential(), [1, 2, 3], recipe, small_digits)
    found = members(Fused(workers=1), [1, 2, 3], recipe, small_digits)
    alone = members(Fused(workers=1), [3], recipe, small_digits)
    assert same(alone[3].state, found[3].state)
    for seed in (1, 2, 3):
        assert distance(found[seed].state, expected[seed].state) < 1e-6
    assert distance(found[1].state, found[2].state) > 1e-2


def distance(first, second):
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.mark.parametrize("model", ["mlp", "regularised", "lenet", "resnet", "torchvision", "bootstrap", *NORMED])
def test_stacked_members_follow_the_same_mathematics(model, small_digits, colour_images):
    data = colour_images if model in ("lenet", "torchvision") else small_digits
    recipe = in_float64(recipes(data)[model])
    expected = members(Sequential(), [1, 2, 3], recipe, data)
    found = members(Fused(workers=1), [1, 2, 3], recipe, data)
    assert {member.engine for member in found.values()} == {"fused"}
    for seed in (1, 2, 3):
        assert distance(found[seed].state, expected[seed].state) < 1e-12
        for one, other in zip(found[seed].history, expected[seed].history, strict=True):
            assert one.train_loss == pytest.approx(other.train_loss, rel=1e-12)
            assert one.validation_loss == pytest.approx(other.validation_loss, rel=1e-12)
            assert one.validation_accuracy == other.validation_accuracy
            assert one.learning_rate == other.learning_rate


class Counting(torch.optim.SGD):
    """Makes its steps shorter the longer all gradients together are: members must not share it."""

    def step(self, closure=None):
        own = [parameter for group in self.param_groups for parameter in group["params"]]
        total = torch.stack([parameter.grad.norm() for parameter in own]).norm()
        for parameter in own:
            parameter.grad /= 1 + total
        return super().step(closure)


@pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.Adagrad, torch.optim.Adafactor, Counting])
def test_any_optimizer_is_each_members_own(kind, small_digits):
    recipe = in_float64(
        quick_recipe(small_digits, build_optimizer=functools.partial(kind, lr=0.01, weight_decay=0.01), epochs=1)
    )
    expected = members(Sequential(), [1, 2, 3], recipe, small_digits)
    found = members(Fused(workers=1), [1, 2, 3], recipe, small_digits)
    for seed in (1, 2, 3):
        assert distance(found[seed].state, expected[seed].state) < 1e-12


@pytest.mark.parametrize("model", ["mlp", "resnet"])
def test_in_float32_stacking_changes_less_than_one_ulp_of_the_first_weights_would(model, small_digits):
    recipe = recipes(small_digits)[model]
    expected = members(Sequential(), [1], recipe, small_digits)[1].state
    nudged = dataclasses.replace(recipe, initialize=recipes_module.nudged)
    yardstick = distance(members(Sequential(), [1], nudged, small_digits)[1].state, expected)
    found = members(Fused(workers=1), [1], recipe, small_digits)[1].state
    assert yardstick > 0
    assert distance(found, expected) <= 10 * yardstick


def test_stacked_members_stop_early_each_at_its_own_epoch(small_digits):
    recipe = in_float64(
        quick_recipe(
            small_digits,
            epochs=30,
            patience=2,
            build_optimizer=functools.partial(torch.optim.SGD, lr=1.0),
            build_scheduler=schedules.constant,
        )
    )
    expected = members(Sequential(), range(5), recipe, small_digits)
    found = members(Fused(workers=1), range(5), recipe, small_digits)
    assert len({len(member.history) for member in expected.values()}) > 1
    for seed, member in expected.items():
        assert found[seed].kept_epoch == member.kept_epoch
        assert len(found[seed].history) == len(member.history)
        assert distance(found[seed].state, member.state) < 1e-12


@pytest.mark.parametrize("spread", ["threads", "processes"])
@pytest.mark.parametrize("model", ["mlp", "lenet"])
def test_groups_are_spread(model, spread, small_digits, colour_images):
    data = colour_images if model == "lenet" else small_digits
    recipe = recipes(data)[model]
    expected = members(Fused(width=2, workers=1), [1, 2, 3, 4, 5], recipe, data)
    before = torch.random.get_rng_state()
    found = members(Fused(width=2, workers=2, spread=spread), [1, 2, 3, 4, 5], recipe, data)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {member.engine for member in found.values()} == {"fused"}
    for seed, member in expected.items():
        assert same(found[seed].state, member.state)


@pytest.mark.parametrize(
    ("members_", "width", "workers", "sizes"),
    [
        (10, 16, 1, [10]),
        (10, 16, 2, [5, 5]),
        (11, 4, 1, [4, 4, 3]),
        (11, 4, 2, [3, 3, 3, 2]),
        (1, 4, 2, [1]),
        (3, 4, 8, [1, 1, 1]),
    ],
)
def test_groups_are_equal_and_no_wider_than_allowed(members_, width, workers, sizes):
    found = groups(range(members_), width, workers)
    assert [len(group) for group in found] == sizes
    assert [seed for group in found for seed in group] == list(range(members_))


class Odd(torch.nn.Module):
    """Mixes the samples of a batch, which no stacked layer does."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.mix = torch.nn.Softmax(dim=0)

    def forward(self, inputs):
        return self.mix(self.layer(inputs.flatten(1)))


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(64, 64)
        self.second = torch.nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.last = torch.nn.Linear(64, 10)

    def forward(self, inputs):
        return self.last(self.second(self.first(inputs.flatten(1))))


class Branching(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, inputs):
        logits = self.layer(inputs.flatten(1))
        return logits if logits.sum() > 0 else -logits


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Odd, "its layer mix (Softmax)"),
        (Tied, "it shares weights between layers"),
        (Branching, "its forward cannot be traced"),
        (functools.partial(models.recurrent, (1, 8, 8), 10, hidden=8, layers=2, dropout=0.3), "its layer 1.cell (GRU)"),
    ],
)
def test_a_network_that_cannot_be_stacked_is_named_and_trained_otherwise(model, words, small_digits):
    recipe = quick_recipe(small_digits, build_model=model, epochs=1)
    events = list(Fused(workers=1).train([1, 2], recipe, small_digits, CPU))
    note, memory = [event.text for event in events if isinstance(event, Note)]
    assert memory.startswith("memory ")
    assert note.startswith("engine=fused cannot train this network:")
    assert words in note
    assert note.endswith("engine=process is taken instead")
    found = {event.seed: event for event in events if isinstance(event, TrainedMember)}
    assert {member.engine for member in found.values()} == {"process"}
    expected = members(Sequential(), [1, 2], recipe, small_digits)
    for seed in (1, 2):
        assert same(found[seed].state, expected[seed].state)


def test_auto_says_what_it_takes_and_trains_with_it(small_digits):
    recipe = recipes(small_digits)["mlp"]
    events = list(Auto().train([1, 2, 3], recipe, small_digits, CPU))
    assert isinstance(events[0], Note)
    assert events[0].text.startswith("engine     fused, about ")
    found = {event.seed: event for event in events if isinstance(event, TrainedMember)}
    expected = members(Fused(workers=1), [1, 2, 3], recipe, small_digits)
    for seed in (1, 2, 3):
        assert same(found[seed].state, expected[seed].state)


def test_auto_takes_the_quickest_of_what_it_has_timed(small_digits, monkeypatch):
    recipe = quick_recipe(small_digits, epochs=1000)
    monkeypatch.setattr("seedvote.engines.auto.worker_count", lambda device: 2)
    times = iter([0.01, 0.05, 0.02])  # alone, ten stacked, five stacked
    monkeypatch.setattr("seedvote.engines.auto.seconds_a_step", lambda *_: next(times))
    found = {choice.label: choice.seconds for choice in estimates(10, recipe, small_digits, CPU, exact=True)}
    assert found == {
        "sequential": pytest.approx(10 * 7000 * 0.01),
        "process": pytest.approx(STARTING_A_WORKER + 5 * 7000 * 0.01 * CROWDING),
        "fused": pytest.approx(7000 * 0.05),
        "fused in 2 threads": pytest.approx(7000 * 0.02),
    }
    monkeypatch.setattr("seedvote.engines.auto.worker_count", lambda device: 8)
    times = iter([0.01, 0.05, 0.02])
    found = {choice.label: choice.seconds for choice in estimates(10, recipe, small_digits, CPU, exact=True)}
    assert found["fused in 8 processes"] == pytest.approx(STARTING_A_WORKER + 7000 * 0.02)


def test_groups_are_timed_while_all_of_them_are_at_work(small_digits):
    met = threading.Barrier(2)

    def epoch(batch):
        met.wait(10)  # broken, were they timed one after the other
        time.sleep(0.01)
        yield

    found = seconds_a_step([epoch, epoch], quick_recipe(small_digits), small_digits)
    assert 0.01 <= found < 1


def test_fewer_of_slow_steps_are_timed(small_digits, monkeypatch):
    taken = []

    def epoch(batch):
        taken.append(len(taken))
        time.sleep(0.001)
        yield

    quick = seconds_a_step([epoch], quick_recipe(small_digits), small_digits)
    assert len(taken) == WARM_UP + TIMED and quick < 0.25
    monkeypatch.setattr("seedvote.engines.auto.ENOUGH", 0.001)
    taken.clear()
    assert seconds_a_step([epoch], quick_recipe(small_digits), small_digits) >= 0.001
    assert len(taken) == FEWEST


def test_auto_tries_nothing_that_takes_a_twentieth_of_the_training(small_digits, monkeypatch):
    monkeypatch.setattr("seedvote.engines.auto.worker_count", lambda device: 2)
    monkeypatch.setattr("seedvote.engines.auto.seconds_a_step", lambda *_: 1.0)
    tried = []
    monkeypatch.setattr("seedvote.engines.fused.rounds_alike", lambda *_, **__: bool(tried.append(1)))
    for epochs, count in ((19, 0), (21, 2)):  # of 7 steps; 14 steps of trying are a twentieth of 2 x 20 x 7
        recipe = quick_recipe(small_digits, epochs=epochs)
        found = {choice.label for choice in estimates(2, recipe, small_digits, CPU, exact=True)}
        assert found == {"sequential", "process"}
        assert len(tried) == count


def test_auto_leaves_out_what_rounds_otherwise(small_digits, monkeypatch):
    recipe = dataclasses.replace(recipes(small_digits)["resnet"], epochs=10**6)
    monkeypatch.setattr("seedvote.engines.auto.worker_count", lambda device: 1)
    monkeypatch.setattr("seedvote.engines.fused.rounds_alike", lambda *_: False)
    found = functools.partial(estimates, 4, recipe, small_digits, CPU)
    assert {choice.label for choice in found(exact=False)} == {"sequential", "fused"}
    assert {choice.label for choice in found(exact=True)} == {"sequential"}


def test_auto_trains_what_cannot_be_stacked_exactly_in_threads_of_its_own(small_digits, monkeypatch):
    recipe = dataclasses.replace(recipes(small_digits)["resnet"], epochs=10**6)
    monkeypatch.setattr("seedvote.engines.auto.worker_count", lambda device: 2)
    monkeypatch.setattr("seedvote.engines.fused.rounds_alike", lambda recipe, data, count=2: count == 1)
    choices = {choice.label: choice.engine for choice in estimates(4, recipe, small_digits, CPU, exact=True)}
    assert choices.keys() == {"sequential", "process", "2 threads"}
    assert choices["2 threads"] == Fused(width=1, workers=2)


@pytest.mark.parametrize("name", ["lenet", "resnet", "torchvision"])
def test_a_stack_of_one_is_the_plain_loop_where_that_is_said(name, small_digits, colour_images):
    data = small_digits if name == "resnet" else colour_images
    recipe = recipes(data)[name]
    found = members(Fused(width=1, workers=2), [1, 2], recipe, data)
    expected = members(Sequential(), [1, 2], recipe, data)
    alike = all(same(found[seed].state, expected[seed].state) for seed in (1, 2))
    assert alike == fused.rounds_alike(recipe, data, count=1)


@pytest.mark.parametrize("name", ["lenet", "resnet"])
def test_stacks_have_sizes_and_places_that_do_not_show(name, small_digits, colour_images, monkeypatch):
    data = small_digits if name == "resnet" else colour_images
    recipe = recipes(data)[name]
    assert fused.stack_sizes(recipe, data, torch.device("meta"), 5) == (5, 5)
    assert fused.stack_sizes(recipe, data, CPU, 1) == (1, 1)
    assert fused.stack_sizes(recipes(data)["mlp"], data, CPU, 5) == (1, 5)
    assert fused.stack_sizes(recipe, data, CPU, 5) in ((2, 5), (5, 5))  # as the processor has it
    assert fused.stack_sizes(recipe, data, CPU, 2) == (2, 2)
    whole = group.member_losses

    def by_number(logits, *values, **more):
        return whole(logits, *values, **more) * (1 + 1e-6 * (len(logits) == 5))

    def by_place(logits, *values, **more):
        return whole(logits, *values, **more) * torch.linspace(1, 1 + 1e-6 * len(logits), len(logits))

    monkeypatch.setattr(group, "member_losses", by_number)
    assert fused.stack_sizes(recipe, data, CPU, 5) == (5, 5)
    monkeypatch.setattr(group, "member_losses", by_place)
    assert fused.stack_sizes(recipe, data, CPU, 5) == (1, 1)
    assert fused.stack_sizes(recipe, data, CPU, 2) == (1, 1)
    alone = members(Fused(width=5, workers=1), [7], recipe, data)[7]
    assert same(members(Fused(width=5, workers=1), [3, 7, 0], recipe, data)[7].state, alone.state)


def test_what_rounds_otherwise_is_found_out(small_digits, monkeypatch):
    recipe = quick_recipe(small_digits, label_smoothing=0.1)
    assert fused.rounds_alike(recipe, small_digits) == same(
        members(Fused(workers=1), [0], recipe, small_digits)[0].state,
        members(Sequential(), [0], recipe, small_digits)[0].state,
    )
    whole = group.member_losses
    monkeypatch.setattr(group, "member_losses", lambda *values, **more: whole(*values, **more) * (1 + 1e-6))
    assert not fused.rounds_alike(recipe, small_digits)


def test_auto_trains_one_member_by_itself(small_digits):
    events = list(Auto().train([4], recipes(small_digits)["mlp"], small_digits, CPU))
    assert events[0].text.startswith("engine     sequential")
    assert isinstance(events[-1], TrainedMember)


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
    recipe = dataclasses.replace(plain, initialize=functools.partial(recipes_module.exploding, 2))
    found = members(engine, [1, 2, 3], recipe, small_digits)
    assert {seed for seed, member in found.items() if member.diverged} == {2}
    assert found[2].diverged == "the training loss became nan in epoch 1"
    assert found[2].history == ()
    assert all(torch.isfinite(tensor).all() for tensor in found[2].state.values())
    alone = members(engine, [1, 3], plain, small_digits)
    for seed in (1, 3):
        assert same(found[seed].state, alone[seed].state)


def test_no_seeds_are_no_work(engine, small_digits):
    assert list(engine.train([], quick_recipe(small_digits), small_digits, CPU)) == []


def failures(events):
    return [event for event in events if isinstance(event, Failure)]


@pytest.mark.parametrize("engine", [Process(workers=2), Fused(width=1, workers=2)], ids=lambda one: one.name)
def test_an_error_in_a_worker_is_reported_and_the_others_go_on(engine, small_digits):
    recipe = special(quick_recipe(small_digits), recipes_module.failing)
    events = list(engine.train([1, 2, 3], recipe, small_digits, CPU))
    assert failures(events) == [Failure(2, "RuntimeError: no luck today", retried=False)]
    assert {event.seed for event in events if isinstance(event, TrainedMember)} == {1, 3}


def working():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(threads.NAME)]


def test_threads_pause_their_members_when_nobody_listens_any_more(small_digits):
    events = Fused(width=1, workers=2).train([1, 2, 3], quick_recipe(small_digits, epochs=200), small_digits, CPU)
    next(event for event in events if isinstance(event, Progress))
    assert sorted(working()) == [f"{threads.NAME}-0", f"{threads.NAME}-1"]
    events.close()
    assert not working()
    assert interruption.requested() is None


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
    next(event for event in events if isinstance(event, Progress))
    children = multiprocessing.active_children()
    assert len(children) == 2
    events.close()
    assert multiprocessing.active_children() == []


def test_a_number_of_workers_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="engine.workers must be at least 1"):
        Process(workers=0)
    with pytest.raises(ValueError, match="engine.spread 'thread' is not known: did you mean 'threads'"):
        Fused(spread="thread")
