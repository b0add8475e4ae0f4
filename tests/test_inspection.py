from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recipes import quick_recipe
from seedvote import augmentation, models, schedules
from seedvote.data import network_inputs
from seedvote.initialization import initial_model
from seedvote.inspection import first_signals, layers
from seedvote.monitoring import diagnosis, layers_table
from seedvote.seeding import Streams

CPU = torch.device("cpu")


def deep(activation, initialize, width=64, depth=20):
    """Build `depth` linear layers with an activation after each but the last."""
    parts: list[nn.Module] = [nn.Flatten()]
    for number in range(depth):
        last = number == depth - 1
        linear = nn.Linear(64 if number == 0 else width, 10 if last else width)
        initialize(linear.weight)
        nn.init.zeros_(linear.bias)
        parts += [linear] if last else [linear, activation()]
    return nn.Sequential(*parts)


def signals(data, build_model, seed=0, **changes):
    return first_signals(quick_recipe(data, build_model=build_model, **changes), data, seed, CPU)


def flags(found):
    return [problem for signal in found for problem in signal.problems]


kaiming = functools.partial(nn.init.kaiming_normal_, nonlinearity="relu")


@pytest.mark.parametrize("initialize", [nn.init.xavier_uniform_, nn.init.kaiming_uniform_, torch.nn.init.orthogonal_])
@pytest.mark.parametrize("seed", range(3))
def test_twenty_sigmoid_layers_are_flagged(seed, initialize, small_digits):
    found = signals(small_digits, functools.partial(deep, nn.Sigmoid, initialize), seed)
    assert set(flags(found)) == {"vanishing gradient"}
    assert "vanishing gradient" in found[0].problems
    assert not found[-1].problems
    gradients = [signal.gradient for signal in found if signal.kind == "Linear"]
    assert gradients[0] < 1e-6 * gradients[-1]


@pytest.mark.parametrize("width", [32, 64, 256])
@pytest.mark.parametrize("seed", range(3))
def test_twenty_rectified_layers_after_kaiming_are_not(seed, width, small_digits):
    found = signals(small_digits, functools.partial(deep, nn.ReLU, kaiming, width), seed)
    assert len(found) == 39
    assert not flags(found)


def test_weights_that_are_too_large_explode_and_too_small_ones_vanish(small_digits):
    large = functools.partial(deep, nn.ReLU, functools.partial(nn.init.normal_, std=1.0))
    assert {"exploding outputs", "exploding gradient"} == set(flags(signals(small_digits, large)))
    small = functools.partial(deep, nn.ReLU, functools.partial(nn.init.normal_, std=0.01))
    assert {"vanishing outputs", "vanishing gradient"} == set(flags(signals(small_digits, small)))
    endless = functools.partial(deep, nn.ReLU, functools.partial(nn.init.normal_, std=1e6))
    assert "exploding outputs" in flags(signals(small_digits, endless))


def test_dead_and_saturated_units_are_counted(small_digits):
    def dead():
        model = deep(nn.ReLU, kaiming, depth=2)
        nn.init.constant_(model[1].bias, -1e3)
        return model

    before, units, _ = signals(small_digits, dead)
    assert (units.zeros, units.saturated, units.problems) == (1.0, None, ("vanishing outputs",))
    assert (before.gradient, before.problems) == (0, ("vanishing gradient",))
    wide = functools.partial(deep, nn.Tanh, functools.partial(nn.init.normal_, std=10.0), depth=2)
    assert signals(small_digits, wide)[1].saturated > 0.9
    narrow = functools.partial(deep, nn.Sigmoid, functools.partial(nn.init.normal_, std=0.01), depth=2)
    assert signals(small_digits, narrow)[1].saturated == 0


@pytest.mark.parametrize("model", ["mlp", "lenet", "resnet", "resnet18"])
def test_sound_networks_are_not_flagged(model, small_digits, colour_images):
    builders = {
        "mlp": (small_digits, functools.partial(models.mlp, (1, 8, 8), 10, dropout=0.2)),
        "lenet": (colour_images, functools.partial(models.lenet, (3, 32, 32), 4)),
        "resnet": (colour_images, functools.partial(models.resnet, (3, 32, 32), 4, depth=20)),
        "resnet18": (colour_images, functools.partial(models.torchvision_model, (3, 32, 32), 4, "resnet18")),
    }
    data, build_model = builders[model]
    assert not flags(signals(data, build_model))


def test_numbers_are_those_of_the_members_first_step(colour_images):
    data = colour_images
    images = functools.partial(augmentation.images, crop=2, rotate=10.0)

    def build():
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Flatten(), nn.Linear(3600, 6), nn.Tanh(),
            nn.Linear(6, 4),
        )  # fmt: skip

    recipe = quick_recipe(data, build_model=build, augment=images, label_smoothing=0.1, batch_size=16)
    found = {signal.name: signal for signal in first_signals(recipe, data, 5, CPU)}

    streams = Streams(5)
    model = initial_model(recipe, streams)
    chosen = torch.from_numpy(streams.generator("order", 1).permutation(len(data.train))[:16])
    inputs = network_inputs(data.train.inputs[chosen], data.normalization)
    inputs = images(inputs, streams.generator("augment", 1, 0))
    torch.manual_seed(streams.number("dropout", 1, 0))
    outputs = {}
    value = inputs
    for name, layer in model.named_children():
        value = layer(value.clone())  # what comes after changes the copy
        value.retain_grad()
        outputs[name] = value
    F.cross_entropy(value, data.train.labels[chosen], label_smoothing=0.1).backward()
    assert list(found) == list(outputs)
    for name, output in outputs.items():
        signal, numbers = found[name], output.detach().double().numpy()
        assert signal.mean == pytest.approx(numbers.mean(), abs=1e-6)
        assert signal.deviation == pytest.approx(numbers.std(), rel=1e-5)
        assert signal.zeros == pytest.approx((numbers == 0).mean())
        assert signal.gradient == pytest.approx(np.linalg.norm(output.grad), rel=1e-4)
    assert found["5"].saturated == pytest.approx((np.abs(outputs["5"].detach().numpy()) > 0.98).mean())
    norms = [parameter.grad.norm().item() for parameter in model[0].parameters()]
    assert found["0"].weight_gradient == pytest.approx(math.hypot(*norms), rel=1e-4)
    assert found["1"].weight_gradient is None


def test_a_layer_that_is_called_twice_is_shown_twice(small_digits):
    def build():
        again = nn.ReLU()
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), again, nn.Linear(8, 10), again)

    assert [signal.name for signal in signals(small_digits, build)] == ["1", "2", "3", "2 (2)"]


def test_inspection_leaves_the_global_generator_alone(small_digits):
    recipe = quick_recipe(small_digits)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first_signals(recipe, small_digits, 0, CPU)
    layers(recipe, small_digits)
    assert torch.equal(torch.rand(3), expected)


class Branched(nn.Module):
    """Has parameters of its own beside layers, and a layer that it does not call."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(64, 10)
        self.unused = nn.Linear(5, 7, bias=False)

    def forward(self, inputs):
        return self.head(inputs.flatten(1)) * self.scale.sum()


def test_layers_are_named_with_outputs_and_parameters(small_digits, colour_images):
    found = layers(quick_recipe(small_digits, build_model=Branched), small_digits)
    assert [(layer.name, layer.kind, layer.shape, layer.parameters) for layer in found] == [
        ("", "Branched", (10,), 3),
        ("head", "Linear", (10,), 650),
        ("unused", "Linear", None, 35),
    ]
    text = layers_table(found)
    assert "(the network)" in text
    assert text.splitlines()[-1].split() == ["in", "all", "688"]
    build = functools.partial(models.torchvision_model, (3, 32, 32), 4, "resnet18")
    found = layers(quick_recipe(colour_images, build_model=build), colour_images)
    assert sum(layer.parameters for layer in found) == sum(parameter.numel() for parameter in build().parameters())
    assert found[0].shape == (64, 32, 32) or found[0].shape == (64, 16, 16)


def test_the_report_says_how_many_layers_are_flagged(small_digits):
    sound = quick_recipe(small_digits, build_scheduler=schedules.warmup_cosine)
    assert diagnosis(sound, small_digits, [3, 4], CPU).endswith("\nno layer is flagged")
    build = functools.partial(deep, nn.Sigmoid, nn.init.xavier_uniform_)
    lines = diagnosis(quick_recipe(small_digits, build_model=build), small_digits, [3], CPU).splitlines()
    assert lines[0].startswith("first step of seed 3")
    flagged = sum(line.endswith("vanishing gradient") for line in lines)
    assert lines[-1] == f"{flagged} of 39 layers flagged"
    assert flagged > 20


class FailsOnBatches(nn.Module):
    """Works on two samples only."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, inputs):
        return self.head(inputs.reshape(2, 64))


def test_a_network_that_fails_on_a_batch_is_told(small_digits):
    recipe = quick_recipe(small_digits, build_model=FailsOnBatches)
    with pytest.raises(ValueError, match="diagnose=true: the network fails on its first batch: shape"):
        diagnosis(recipe, small_digits, [0], CPU)


def test_the_command_prints_it_and_puts_it_into_the_log(call, workplace):
    arguments = ("data.limit=60", "epochs=1", "run=it", "n_seeds=1", "diagnose=true")
    outcome = call("train", *arguments)
    assert outcome.status == 0
    report = outcome.out[outcome.out.index("first step of seed 0") :]
    report = report[: report.index("no layer is flagged") + len("no layer is flagged")]
    log = (workplace / "checkpoints" / "it" / "train.log").read_text()
    assert "diagnosis:\n    " + report.replace("\n", "\n    ") in log
    assert "first step of seed 0" in call("train", *arguments).out
    assert (workplace / "checkpoints" / "it" / "train.log").read_text() == log
    assert "first step" not in call("train", *arguments[:3], "n_seeds=2").out
