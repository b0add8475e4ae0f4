from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch.nn import functional as F

from recipes import DivergesFor, quick_recipe
from seedvote import augmentation, models, schedules
from seedvote.data import network_inputs
from seedvote.initialization import initial_model
from seedvote.seeding import Streams
from seedvote.training import batches, evaluate, on_device, parameter_groups, train_member
from seedvote.types import EpochRecord, Split, TrainedMember

CPU = torch.device("cpu")


def trained(seed, recipe, data) -> TrainedMember:
    *epochs, member = train_member(seed, recipe, on_device(data, CPU), CPU)
    assert [epoch.seed for epoch in epochs] == [seed] * len(epochs)
    assert tuple(epoch.record for epoch in epochs) == member.history
    assert all(epoch.observation is None for epoch in epochs)
    return member


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_member_is_a_function_of_its_seed(small_digits):
    recipe = quick_recipe(small_digits)
    torch.manual_seed(1)
    first = trained(7, recipe, small_digits)
    torch.manual_seed(2)  # what the caller did with the global generator changes nothing
    np.random.seed(2)  # noqa: NPY002
    assert same(trained(7, recipe, small_digits).state, first.state)
    assert not same(trained(8, recipe, small_digits).state, first.state)


def test_training_leaves_the_global_generator_alone(small_digits):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(0, quick_recipe(small_digits, epochs=1), small_digits)
    assert torch.equal(torch.rand(3), expected)


def test_members_differ_from_the_first_weight_on(small_digits):
    recipe = quick_recipe(small_digits)
    first, second = (initial_model(recipe, Streams(seed)).state_dict() for seed in (0, 1))
    for name in first:
        assert not torch.equal(first[name], second[name]), name


class Recorder:
    """Augments nothing and keeps what it was given."""

    def __init__(self):
        self.batches = []

    def __call__(self, inputs, generator):
        self.batches.append(inputs.clone())
        return inputs


def seen_batches(seed, data, **changes):
    recorder = Recorder()
    trained(seed, quick_recipe(data, augment=recorder, **changes), data)
    return torch.cat(recorder.batches)


def test_vary_init_gives_all_members_the_same_data_order(small_digits):
    first, second = (seen_batches(seed, small_digits, vary=("init",)) for seed in (1, 2))
    assert torch.equal(first, second)
    recipe = quick_recipe(small_digits, vary=("init",))
    assert not same(*(initial_model(recipe, Streams(seed, recipe.vary)).state_dict() for seed in (1, 2)))


def test_vary_order_gives_all_members_the_same_initial_weights(small_digits):
    first, second = (seen_batches(seed, small_digits, vary=("order",)) for seed in (1, 2))
    assert not torch.equal(first, second)
    recipe = quick_recipe(small_digits, vary=("order",))
    assert same(*(initial_model(recipe, Streams(seed, recipe.vary)).state_dict() for seed in (1, 2)))


def test_varying_nothing_trains_the_same_member_for_every_seed(small_digits):
    recipe = quick_recipe(small_digits, vary=(), augment=functools.partial(augmentation.images, crop=1))
    assert same(trained(1, recipe, small_digits).state, trained(2, recipe, small_digits).state)


@pytest.mark.parametrize("stream", ["init", "order", "augment", "dropout", "sample"])
def test_each_stream_alone_makes_members_differ(stream, small_digits):
    augment = functools.partial(augmentation.images, crop=1)
    recipe = quick_recipe(small_digits, vary=(stream,), augment=augment, bootstrap=stream == "sample")
    assert not same(trained(1, recipe, small_digits).state, trained(2, recipe, small_digits).state)


def test_every_epoch_sees_every_sample_once_in_a_new_order(small_digits):
    seen = seen_batches(3, small_digits)
    everything = network_inputs(small_digits.train.inputs, small_digits.normalization)
    first, second = seen.split(len(everything))

    def sorted_rows(images):
        return np.sort(images.flatten(1).numpy().view([("", np.float32)] * 64), axis=0)

    assert np.array_equal(sorted_rows(first), sorted_rows(everything))
    assert np.array_equal(sorted_rows(second), sorted_rows(everything))
    assert not torch.equal(first, second)


def test_a_bootstrap_sample_is_the_members_own_and_the_same_in_every_epoch(small_digits):
    seen = seen_batches(3, small_digits, bootstrap=True)
    drawn = np.random.Generator(np.random.PCG64(np.random.SeedSequence(3, spawn_key=(4,)))).integers(200, size=200)
    assert 110 < len(set(drawn.tolist())) < 140  # 1 - 1/e of 200 are 126
    everything = network_inputs(small_digits.train.inputs, small_digits.normalization).flatten(1).numpy()
    first, second = (np.array(sorted(map(tuple, epoch.flatten(1).tolist()))) for epoch in seen.split(200))
    np.testing.assert_array_equal(first, np.array(sorted(map(tuple, everything[drawn].tolist()))))
    np.testing.assert_array_equal(first, second)
    assert not torch.equal(*seen.split(200))
    assert not torch.equal(seen_batches(4, small_digits, bootstrap=True), seen)


def test_a_stream_that_does_not_vary_gives_all_members_the_same_bootstrap_sample(small_digits):
    first, second = (seen_batches(seed, small_digits, bootstrap=True, vary=("init",)) for seed in (1, 2))
    assert torch.equal(first, second)
    recipe = quick_recipe(small_digits, bootstrap=True, vary=())
    assert same(trained(1, recipe, small_digits).state, trained(2, recipe, small_digits).state)


def test_the_loop_is_plain_pytorch(small_digits):
    """Written again from torch's parts alone, without seedvote's loop, the weights come out bit for bit."""
    recipe = quick_recipe(small_digits, epochs=2, label_smoothing=0.1, clip_norm=0.5)
    streams = Streams(4)
    torch.manual_seed(streams.number("init", 0))
    model = recipe.build_model().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        [
            {"params": [model[1].weight, model[4].weight]},
            {"params": [model[1].bias, model[4].bias], "weight_decay": 0.0},
        ],
        lr=0.01,
        fused=True,
    )
    scheduler = schedules.warmup_cosine(optimizer, 14)
    train = small_digits.train
    inputs = (train.inputs.float() - small_digits.normalization.mean[0]) / small_digits.normalization.std[0]
    for epoch in (1, 2):
        order = torch.from_numpy(streams.generator("order", epoch).permutation(200))
        for step in range(7):
            chosen = order[32 * step : 32 * step + 32]
            torch.manual_seed(streams.number("dropout", epoch, step))
            loss = F.cross_entropy(model(inputs[chosen]), train.labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
    assert same(trained(4, recipe, small_digits).state, model.state_dict())


def test_evaluation_scores_every_sample_in_evaluation_mode(small_digits):
    model = models.mlp(small_digits.input_shape, 10, hidden=[8], dropout=0.5).train()
    split = Split(small_digits.test.inputs.repeat(11, 1, 1, 1), small_digits.test.labels.repeat(11))  # 2200 > 2 batches
    loss, accuracy = evaluate(model, split, small_digits)
    model.eval()
    with torch.no_grad():
        logits = model(network_inputs(split.inputs, small_digits.normalization))
    probabilities = logits.double().softmax(1).numpy()
    probabilities /= probabilities.sum(1, keepdims=True)
    assert loss == pytest.approx(log_loss(split.labels, probabilities, labels=range(10)), rel=1e-6)
    assert accuracy == accuracy_score(split.labels, probabilities.argmax(1))


def test_validation_does_not_touch_batchnorm(small_digits):
    build = functools.partial(models.resnet, small_digits.input_shape, 10, depth=8, width=4)
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, small_digits.validation, small_digits)
    assert same(model.state_dict(), before)


def test_early_stopping_keeps_the_best_epoch(small_digits):
    recipe = quick_recipe(
        small_digits,
        epochs=40,
        patience=3,
        build_optimizer=functools.partial(torch.optim.SGD, lr=2.0),
        build_scheduler=schedules.constant,
    )
    member = trained(0, recipe, small_digits)
    losses = [record.validation_loss for record in member.history]
    assert member.kept_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == member.kept_epoch + 3 < 40
    model = recipe.build_model()
    model.load_state_dict(member.state)
    assert evaluate(model, small_digits.validation, small_digits)[0] == pytest.approx(min(losses), rel=1e-6)


def test_a_member_that_diverges_stops_and_keeps_its_last_finite_weights(small_digits):
    plain = quick_recipe(small_digits, epochs=5)
    recipe = dataclasses.replace(plain, build_model=lambda: DivergesFor(plain.build_model(), batches=10))
    member = trained(0, recipe, small_digits)
    assert member.diverged is not None
    assert "loss became" in member.diverged
    assert "epoch 2" in member.diverged
    assert member.kept_epoch == 1
    assert len(member.history) == 1
    assert all(torch.isfinite(tensor).all() for tensor in member.state.values())
    assert int(member.state["seen"]) == 7


def test_histories_are_finite_and_in_order(small_digits):
    member = trained(0, quick_recipe(small_digits, epochs=3), small_digits)
    assert [record.epoch for record in member.history] == [1, 2, 3]
    for record in member.history:
        assert all(math.isfinite(value) for value in dataclasses.astuple(record))
    assert member.history[-1].learning_rate == pytest.approx(0.0, abs=1e-9)
    assert member.history[-1].train_loss < member.history[0].train_loss
    assert isinstance(member.history[0], EpochRecord)


def test_the_state_is_a_copy(small_digits):
    captured = []
    plain = quick_recipe(small_digits, epochs=1)

    def build():
        captured.append(plain.build_model())
        return captured[-1]

    member = trained(0, dataclasses.replace(plain, build_model=build), small_digits)
    with torch.no_grad():
        captured[-1][1].weight.zero_()
    assert member.state["1.weight"].abs().sum() > 0


@pytest.mark.parametrize(
    ("samples", "size", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 4]), (1, 4, [1]), (3, 1, [1] * 3)]
)
def test_batches_leave_out_a_single_leftover_only(samples, size, sizes):
    assert [len(batch) for batch in batches(torch.arange(samples), size)] == sizes


def test_weight_decay_spares_vectors_by_default():
    model = models.resnet((3, 8, 8), 10, depth=8, width=4)
    decayed, spared = parameter_groups(model.parameters(), decay_all=False)
    assert {parameter.ndim for parameter in spared["params"]} == {1}
    assert spared["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
    assert 1 not in {parameter.ndim for parameter in decayed["params"]}
    (everything,) = parameter_groups(model.parameters(), decay_all=True)
    assert len(everything["params"]) == len(list(model.parameters()))
    assert "weight_decay" not in everything
