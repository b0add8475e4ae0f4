"""Schedules against torch's own, to the last step; what weight decay does."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
import torch
from test_conf import composed
from torch.nn import functional as F
from torch.optim import lr_scheduler

from recipes import doubled, quick_recipe
from seedvote import schedules
from seedvote.assembly import build_recipe
from seedvote.config import recipe_of
from seedvote.engines.fused import Fused
from seedvote.engines.group import standing_group, train_epoch
from seedvote.engines.sequential import Sequential
from seedvote.initialization import initial_model
from seedvote.optimization import build_schedule, in_one_pass, parameter_groups
from seedvote.seeding import Streams
from seedvote.targets import scheduler_builder
from seedvote.training import evaluate, train_member
from seedvote.types import TrainedMember

CPU = torch.device("cpu")
ENGINES = {"sequential": Sequential(), "fused": Fused(workers=1)}
EPOCHS, STEPS = 9, 7  # 200 digits in batches of 32


def warmup_cosine(optimizer, rise=6, total=EPOCHS * STEPS):
    """The documented formula."""

    def factor(step):
        if step < rise:
            return (step + 1) / (rise + 1)
        return (1 + math.cos(math.pi * ((step - rise) / (total - rise)))) / 2

    return lr_scheduler.LambdaLR(optimizer, factor)


# What each choice is in torch: options on the command line, the scheduler, and whether it is stepped each epoch.
CHOICES = {
    "constant": ([], lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0), True),
    "warmup_cosine": ([], warmup_cosine, False),
    "step": (["scheduler.step_size=4"], lambda optimizer: lr_scheduler.StepLR(optimizer, 4, gamma=0.1), True),
    "multi_step": (
        ["scheduler.milestones=[3,7]", "scheduler.gamma=0.2"],
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [3, 7], gamma=0.2),
        True,
    ),
    "exponential": ([], lambda optimizer: lr_scheduler.ExponentialLR(optimizer, gamma=0.9), True),
    "cosine": (
        ["scheduler.eta_min=0.001"],
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS, eta_min=0.001),
        True,
    ),
    "one_cycle": (
        ["scheduler.pct_start=0.25"],
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, EPOCHS * STEPS, pct_start=0.25),
        False,
    ),
    "plateau": (
        ["scheduler.patience=1", "+scheduler.threshold=0.2"],
        lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=1, threshold=0.2),
        True,
    ),
}


def watched(build, traces, groups):
    """Build an optimizer that notes learning rate and momentum of each of its steps."""
    optimizer = build(groups)
    trace = []
    traces.append(trace)
    optimizer.register_step_pre_hook(
        lambda own, *_: trace.append([(group["lr"], group["momentum"]) for group in own.param_groups])
    )
    return optimizer


def torch_trace(make, each_epoch, losses):
    """What a plain loop of torch steps with."""
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))]}, {"params": [torch.nn.Parameter(torch.ones(1))]}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    scheduler = make(optimizer)
    trace = []
    for loss in losses:
        for _ in range(STEPS):
            trace.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
            optimizer.step()
            if not each_epoch:
                scheduler.step()
        if each_epoch:
            scheduler.step(loss) if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else scheduler.step()
    return trace


def test_every_schedule_is_compared():
    from test_conf import CHOICES as CONFIGS

    assert set(CHOICES) == {choice for group, choice in CONFIGS if group == "scheduler"}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_learning_rate_is_torchs_at_every_step(engine, choice, small_digits, monkeypatch):
    # What an optimizer keeps is found out by a step of no training's.
    monkeypatch.setattr("seedvote.engines.footprint._numbers_of_state", lambda recipe: 1)
    options, make, each_epoch = CHOICES[choice]
    changes = [f"epochs={EPOCHS}", "batch_size=32", "optimizer=sgd", f"scheduler={choice}", "model.hidden=[8]"]
    recipe = build_recipe(recipe_of(composed(*changes, *options)), small_digits)
    traces: list[list[list[tuple[float, float]]]] = []
    recipe = dataclasses.replace(recipe, build_optimizer=functools.partial(watched, recipe.build_optimizer, traces))
    events = list(ENGINES[engine].train([0, 1, 2], recipe, small_digits, CPU))
    found = {event.seed: event for event in events if isinstance(event, TrainedMember)}
    traces = [trace for trace in traces if trace]  # also those were built that no step was taken with
    expected = [
        torch_trace(make, each_epoch, [record.validation_loss for record in found[seed].history]) for seed in (0, 1, 2)
    ]
    own = engine == "sequential" or choice == "plateau"
    assert traces == (expected if own else expected[:1])
    for seed in (0, 1, 2):
        rates = [record.learning_rate for record in found[seed].history]
        after = STEPS - (1 if each_epoch else 0)  # a schedule in steps has moved on at the epoch's end
        trace = [*expected[seed], [(rates[-1], 0.0)]]
        assert rates == [trace[epoch * STEPS + after][0][0] for epoch in range(EPOCHS)]
    if choice == "plateau":
        assert len({tuple(map(str, trace)) for trace in traces}) > 1  # members came to different rates


def plateau_recipe(data, **changes):
    recipe = quick_recipe(
        data,
        epochs=12,
        build_optimizer=functools.partial(torch.optim.SGD, lr=1.0, momentum=0.9),
        build_scheduler=scheduler_builder(
            {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0, "factor": 0.5}
        ),
        interval="validation",
        **changes,
    )
    return dataclasses.replace(recipe, build_model=functools.partial(doubled, recipe.build_model))


def test_a_plateau_is_that_of_a_plain_loop(small_digits):
    recipe = plateau_recipe(small_digits)
    streams = Streams(3)
    model = initial_model(recipe, streams)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    (mean,), (std,) = small_digits.normalization.mean, small_digits.normalization.std
    inputs, held_out = ((split.inputs.double() - mean) / std for split in (small_digits.train, small_digits.validation))
    rates = []
    for epoch in range(1, 13):
        model.train()
        order = torch.from_numpy(streams.generator("order", epoch).permutation(200))
        for step, chosen in enumerate(order.split(32)):
            torch.manual_seed(streams.number("dropout", epoch, step))
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[chosen]), small_digits.train.labels[chosen]).backward()
            optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        model.eval()
        with torch.no_grad():
            scheduler.step(F.cross_entropy(model(held_out), small_digits.validation.labels))
    *_, member = train_member(3, recipe, small_digits, CPU)
    assert isinstance(member, TrainedMember)
    assert rates == [record.learning_rate for record in member.history]
    assert 2 < len(set(rates)) < 12
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, member.state[name], rtol=1e-9, atol=1e-9)
    assert evaluate(model, small_digits.validation, small_digits)[0] == pytest.approx(
        member.history[-1].validation_loss
    )


def test_stacked_members_come_to_rates_of_their_own(small_digits):
    recipe = plateau_recipe(small_digits)
    found, expected = (
        {
            event.seed: event
            for event in engine.train(range(4), recipe, small_digits, CPU)
            if isinstance(event, TrainedMember)
        }
        for engine in (ENGINES["fused"], ENGINES["sequential"])
    )
    assert {member.engine for member in found.values()} == {"fused"}
    assert len({member.history[-1].learning_rate for member in found.values()}) > 1
    for seed, member in expected.items():
        assert [row.learning_rate for row in found[seed].history] == [row.learning_rate for row in member.history]
        for name, tensor in member.state.items():
            assert float((found[seed].state[name] - tensor).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("scheduler", "interval", "message"),
    [
        ("ReduceLROnPlateau", "epoch", "scheduler.interval must be validation for ReduceLROnPlateau"),
        ("ReduceLROnPlateau", "step", "scheduler.interval must be validation for ReduceLROnPlateau"),
        ("ExponentialLR", "validation", "scheduler.interval=validation is for ReduceLROnPlateau alone, not for"),
    ],
)
def test_a_schedule_at_the_wrong_time_is_refused(scheduler, interval, message, small_digits):
    options = {"gamma": 0.9} if scheduler == "ExponentialLR" else {}
    make = functools.partial(getattr(lr_scheduler, scheduler), **options)
    recipe = quick_recipe(small_digits, build_scheduler=lambda optimizer, _: make(optimizer), interval=interval)
    with pytest.raises(ValueError, match=message):
        build_schedule(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), recipe, 10)


def one_step(build_optimizer, small_digits, **changes):
    """Weights before and after a single step on the whole training split, and the gradient in between."""
    recipe = quick_recipe(
        small_digits, epochs=1, batch_size=200, build_scheduler=schedules.constant, build_optimizer=build_optimizer,
        **changes,
    )  # fmt: skip
    recipe = dataclasses.replace(recipe, build_model=functools.partial(doubled, recipe.build_model))
    model = initial_model(recipe, Streams(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mean, std = small_digits.normalization.mean[0], small_digits.normalization.std[0]
    order = torch.from_numpy(Streams(0).generator("order", 1).permutation(200))
    torch.manual_seed(Streams(0).number("dropout", 1, 0))
    inputs = (small_digits.train.inputs[order].double() - mean) / std
    F.cross_entropy(model(inputs), small_digits.train.labels[order]).backward()
    gradient = {name: parameter.grad for name, parameter in model.named_parameters()}
    *_, member = train_member(0, recipe, small_digits, CPU)
    return before, gradient, member.state


def test_for_sgd_weight_decay_and_l2_are_the_same_with_the_coefficient_rescaled(small_digits):
    """Loshchilov and Hutter (2019), proposition 1: decay by the factor 1 - d is L2 of strength d / lr."""
    rate, decay = 0.1, 0.02
    before, gradient, after = one_step(
        functools.partial(torch.optim.SGD, lr=rate, weight_decay=decay / rate), small_digits
    )
    for name, tensor in before.items():
        kept = 1.0 if "bias" in name else 1 - decay
        assert torch.allclose(after[name], kept * tensor - rate * gradient[name], rtol=1e-13, atol=1e-15)
        assert not torch.allclose(after[name], tensor - rate * gradient[name], atol=1e-4) or "bias" in name


def test_for_adam_decoupled_decay_shrinks_every_weight_and_l2_does_not(small_digits):
    """Adam's first step is lr * sign(gradient): L2 vanishes in it, decoupled decay does not."""
    rate, decay = 0.01, 0.5
    adam, adamw = (
        one_step(functools.partial(kind, lr=rate, weight_decay=decay, eps=1e-30), small_digits)
        for kind in (torch.optim.Adam, torch.optim.AdamW)
    )
    before, gradient, coupled = adam
    *_, decoupled = adamw
    for name in ("1.weight", "4.weight"):
        tensor, own = before[name], gradient[name]
        assert torch.allclose(coupled[name], tensor - rate * (own + decay * tensor).sign(), rtol=0, atol=1e-12)
        assert torch.allclose(decoupled[name], (1 - rate * decay) * tensor - rate * own.sign(), rtol=0, atol=1e-12)
        assert float((coupled[name] - decoupled[name]).abs().max()) > 1e-3


def test_decay_all_is_for_biases_too(small_digits):
    build = functools.partial(torch.optim.SGD, lr=0.1, weight_decay=0.5)
    before, gradient, after = one_step(build, small_digits, decay_all=True)
    for name, tensor in before.items():
        assert torch.allclose(after[name], 0.95 * tensor - 0.1 * gradient[name], rtol=1e-12, atol=1e-15)


def test_groups_of_stacked_parameters_are_those_of_one_member(small_digits):
    model = quick_recipe(small_digits).build_model()
    alone = parameter_groups(model.parameters(), decay_all=False)
    stacked = [torch.nn.Parameter(torch.stack([parameter] * 3)) for parameter in model.parameters()]
    together = parameter_groups((), decay_all=False, stacked=stacked)
    for group, other in zip(alone, together, strict=True):
        assert [parameter.shape for parameter in group["params"]] == [
            parameter.shape[1:] for parameter in other["params"]
        ]


@pytest.mark.parametrize(("kind", "options", "fused"), [
    ("AdamW", {}, True), ("Adam", {}, True), ("SGD", {"momentum": 0.9}, True), ("AdamW", {"fused": False}, False),
    ("SGD", {"foreach": True}, None), ("Adam", {"differentiable": True}, None), ("RMSprop", {}, None),
    ("NAdam", {}, None),
])  # fmt: skip
def test_steps_are_taken_in_one_pass_unless_options_say_otherwise(kind, options, fused):
    build = in_one_pass(functools.partial(getattr(torch.optim, kind), lr=0.1, **options))
    assert build([torch.nn.Parameter(torch.ones(3))]).defaults.get("fused") == fused


def test_the_recipe_of_a_command_takes_its_steps_in_one_pass(small_digits):
    for override, fused in (("optimizer=adamw", True), ("+optimizer.fused=false", False)):
        recipe = build_recipe(recipe_of(composed("data=digits", override)), small_digits)
        assert recipe.build_optimizer([torch.nn.Parameter(torch.ones(3))]).defaults["fused"] is fused


@pytest.mark.parametrize("decay_all", [False, True])
def test_what_one_pass_would_round_otherwise_is_split_and_comes_back_from_a_snapshot(small_digits, decay_all):
    recipe = quick_recipe(small_digits, decay_all=decay_all)  # 32 hidden units fill vectors, 10 classes do not
    group = standing_group(dict.fromkeys(range(3)), recipe, small_digits, CPU, width=1)
    assert sorted(group.network.whole) == ["1.bias", "1.weight", "4.weight"]
    assert sorted(group.network.parts_of(0)) == ["4.bias"]
    steps = train_epoch(group, recipe, small_digits)
    for _ in range(3):
        next(steps)
    snapshots = group.snapshots()
    later = standing_group(snapshots, recipe, small_digits, CPU, width=1)
    assert later.optimizer.states()[1][0].keys() == {"1.weight", "1.bias", "4.weight", "4.bias"}
    for own, other in zip(group.snapshots().values(), later.snapshots().values(), strict=True):
        assert own.groups == other.groups
        for name, entries in own.optimizer.items():
            assert all(torch.equal(value, other.optimizer[name][key]) for key, value in entries.items())
    next(steps)
    next(train_epoch(later, recipe, small_digits))
    for place in range(3):
        states = (each.network.state(place) for each in (group, later))
        for tensor, again in zip(*(state.values() for state in states), strict=True):
            assert torch.equal(tensor, again)
