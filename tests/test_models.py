"""The networks: their layers, their sizes against published ones, and what they refuse."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import shlex

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT
from test_conf import composed
from torch import nn

from seedvote import models
from seedvote.config import recipe_of
from seedvote.models.constrained_time import convolutions, time_complexity, width_for
from seedvote.models.pieces import ACTIVATIONS, NORMS, group_count, image_norm
from seedvote.optimization import parameter_groups
from seedvote.store import recipe_hash
from seedvote.variants import variants_of

DOCUMENT = (ROOT / "docs" / "recipes.md").read_text()
IMAGES = (3, 32, 32)
BUILDERS = {
    "mlp": functools.partial(models.mlp, hidden=[32, 16]),
    "lenet": models.lenet,
    "resnet": functools.partial(models.resnet, depth=8, width=8),
    "densenet": functools.partial(models.densenet, depth=10, growth=8),
    "constrained_time": functools.partial(models.constrained_time_cnn, budget=1_400_832, depth=4),  # 8, 16, 32
}
KINDS = {
    "batch": (nn.BatchNorm1d, nn.BatchNorm2d),
    "layer": (nn.LayerNorm, nn.GroupNorm),
    "instance": (nn.InstanceNorm2d,),
    "group": (nn.GroupNorm,),
    "none": (),
}


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def meta(build, *arguments, **options) -> nn.Module:
    """A network's shapes, without its memory."""
    with torch.device("meta"):
        return build(*arguments, **options)


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def drawn(build) -> nn.Module:
    torch.manual_seed(3)
    return build()


def test_the_defaults_are_the_plain_networks_that_they_were():
    def plain_mlp():
        return nn.Sequential(
            nn.Flatten(), nn.Linear(3072, 30), nn.ReLU(), nn.Dropout(0.2), nn.Linear(30, 20), nn.ReLU(),
            nn.Dropout(0.2), nn.Linear(20, 10),
        )  # fmt: skip

    def plain_lenet():
        return nn.Sequential(
            nn.Conv2d(3, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(16, 32, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(800, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        )  # fmt: skip

    inputs = torch.randn(4, *IMAGES)
    for plain, build in (
        (plain_mlp, lambda: models.mlp(IMAGES, 10, [30, 20], 0.2)),
        (plain_lenet, lambda: models.lenet(IMAGES, 10)),
    ):
        expected, found = drawn(plain), drawn(build)
        assert same_weights(expected, found)
        assert torch.equal(expected.eval()(inputs), found.eval()(inputs))


# Of recipes stored before the networks had these options.
@pytest.mark.parametrize(("model", "digest"), [
    ("mlp", "7e14cf29d714937450c7e5cdcd4f2225b2ac29d8eaca746da4f70d14b435facc"),
    ("lenet", "947201fabec33308f04bbd943d359aa9f85aabae0bfba7075befcf41f4654b82"),
    ("resnet", "4f74a4b2482a9ad3c63f84702fa5fa9c74e6edff91e68c9dad666f6c9572cda9"),
])  # fmt: skip
def test_recipes_that_say_nothing_of_the_options_keep_their_hash(model, digest):
    def digest_of(*overrides: str) -> str:
        return recipe_hash(recipe_of(composed(f"model={model}", *overrides)), "f" * 64)

    assert digest_of() == digest
    others = {digest_of("model.norm=layer"), digest_of("model.activation=elu"), digest_of("frozen=[Linear]")}
    assert len(others | {digest}) == 4


def test_options_that_are_null_are_left_out_of_variants_too():
    members = "members=[{model: lenet},{model.norm: layer}]"
    variants = variants_of(recipe_of(composed(members)))
    assert "norm" not in variants[0]["model"] and "activation" not in variants[0]["model"]
    assert variants[1]["model"]["norm"] == "layer" and "activation" not in variants[1]["model"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_has_the_norm_that_is_asked_for_and_no_other(name, norm):
    if (name, norm) == ("mlp", "instance"):
        with pytest.raises(ValueError, match=r"^model\.norm=instance is for images"):
            BUILDERS[name](IMAGES, 10, norm=norm)
        return
    model = BUILDERS[name](IMAGES, 10, norm=norm)
    every = tuple({kind for kinds in KINDS.values() for kind in kinds})
    found = [module for module in model.modules() if isinstance(module, every)]
    assert bool(found) == (norm != "none")
    assert all(isinstance(module, KINDS[norm]) for module in found)
    groups = {module.num_groups for module in found if isinstance(module, nn.GroupNorm)}
    assert norm != "layer" or groups <= {1}
    assert model(torch.randn(2, *IMAGES)).shape == (2, 10)


@pytest.mark.parametrize(("norm", "axes"), [
    ("batch", (0, 3, 4)), ("layer", (1, 2, 3, 4)), ("instance", (3, 4)), ("group", (2, 3, 4)),
])  # fmt: skip
def test_norms_of_images_take_mean_and_variance_over_their_axes(norm, axes):
    images = torch.randn(6, 32, 5, 7, generator=torch.Generator().manual_seed(0)) * 3 + 2
    own = image_norm(norm, 32)
    normed = own(images).detach().reshape(6, 4, 8, 5, 7).numpy()  # four groups of eight
    values = images.reshape(6, 4, 8, 5, 7).numpy().astype(np.float64)
    expected = (values - values.mean(axes, keepdims=True)) / np.sqrt(values.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normed, expected, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (16, 2), (6, 1), (12, 2), (120, 15), (84, 12), (33, 11)])
def test_groups_are_equal_and_of_at_most_eight_channels(channels, groups):
    assert group_count(channels) == groups


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", BUILDERS)
def test_a_network_has_the_activation_that_is_asked_for_and_no_other(name, activation):
    kinds = {one: type(make()) for one, make in ACTIVATIONS.items()}
    model = meta(BUILDERS[name], IMAGES, 10, activation=activation)
    found = {type(module) for module in model.modules()} & set(kinds.values())
    assert found == {kinds[activation]}


def test_a_learned_slope_is_trained_and_not_decayed():
    model = models.resnet((1, 8, 8), 10, depth=8, width=4, activation="prelu")
    slopes = [module.weight for module in model.modules() if isinstance(module, nn.PReLU)]
    assert len(slopes) == 7 and all(slope.item() == 0.25 for slope in slopes)
    spared = parameter_groups(model.parameters(), decay_all=False)[1]
    assert spared["weight_decay"] == 0
    assert {id(slope) for slope in slopes} <= {id(parameter) for parameter in spared["params"]}
    optimizer = torch.optim.SGD(parameter_groups(model.parameters(), decay_all=False), lr=0.1, weight_decay=0.5)
    model(torch.randn(8, 1, 8, 8)).square().sum().backward()
    gradients = [slope.grad.clone() for slope in slopes]
    optimizer.step()
    for slope, gradient in zip(slopes, gradients, strict=True):
        assert gradient.item() != 0
        torch.testing.assert_close(slope.detach(), 0.25 - 0.1 * gradient)


@pytest.mark.parametrize(("build", "option", "before"), [
    (BUILDERS["mlp"], "dropout", [nn.Linear, nn.Linear]),
    (BUILDERS["mlp"], "input_dropout", [nn.Linear]),
    (BUILDERS["lenet"], "dropout", [nn.Linear, nn.Linear]),
    (BUILDERS["lenet"], "pooling_dropout", [nn.Conv2d, nn.Flatten]),
    (BUILDERS["resnet"], "dropout", [nn.Linear]),
    (BUILDERS["densenet"], "dropout", [nn.AvgPool2d, nn.AvgPool2d]),
])  # fmt: skip
def test_dropout_stands_in_front_of_what_it_is_for(build, option, before):
    model, plain = build(IMAGES, 10, **{option: 0.4}), build(IMAGES, 10)
    layers = list(model)
    assert not any(isinstance(module, nn.Dropout) for module in plain.modules())
    found = [type(after) for layer, after in itertools.pairwise(layers) if isinstance(layer, nn.Dropout)]
    assert found == before
    assert [tensor.shape for tensor in model.parameters()] == [tensor.shape for tensor in plain.parameters()]
    inside = sum(isinstance(module, nn.Dropout) for module in model.modules()) - len(found)
    assert inside == (6 if build is BUILDERS["densenet"] else 0)  # two convolutions in each of three layers


# Parameters in the tables of He et al. (2016) and Huang et al. (2017), in millions, for CIFAR-10.
@pytest.mark.parametrize(("build", "published", "digits"), [
    (functools.partial(models.resnet, depth=20), 0.27, 2), (functools.partial(models.resnet, depth=56), 0.85, 2),
    (functools.partial(models.resnet, depth=110), 1.7, 1),
    (functools.partial(models.densenet, depth=40, growth=12, bottleneck=False), 1.0, 1),
    (functools.partial(models.densenet, depth=100, growth=12, bottleneck=False), 7.0, 1),
    (functools.partial(models.densenet, depth=100, growth=24, bottleneck=False), 27.2, 1),
    (functools.partial(models.densenet, depth=100, growth=12), 0.8, 1),
    (functools.partial(models.densenet, depth=250, growth=24), 15.3, 1),
    (functools.partial(models.densenet, depth=190, growth=40), 25.6, 1),
])  # fmt: skip
def test_networks_are_as_large_as_published(build, published, digits):
    model = meta(build, IMAGES, 10)
    blocks = [module for module in model.modules() if isinstance(module, models.ResidualBlock)]
    # Theirs have no weights in shortcuts (option A).
    count = size(model) - sum(size(block.shortcut) for block in blocks)
    assert round(count / 1e6, digits) == published


def test_densenet_is_torchvisions_but_for_the_stem():
    layers = (40 - 4) // 6
    theirs = meta(torchvision.models.DenseNet, 12, (layers,) * 3, 24, 4, num_classes=10)
    # A 7x7 stem, and a BatchNorm behind it.
    assert size(meta(models.densenet, IMAGES, 10)) == size(theirs) - 24 * 3 * (49 - 9) - 2 * 24


def test_a_dense_layer_hands_on_what_it_was_given():
    layer = models.DenseLayer(6, 4, True, 0.0, "batch", "relu")
    inputs = torch.randn(3, 6, 5, 5)
    outputs = layer(inputs)
    assert outputs.shape == (3, 10, 5, 5)
    assert torch.equal(outputs[:, :6], inputs)


def counted(model: nn.Module, shape) -> int:
    """Multiplications of the convolutions for one image, from the shapes that really come by."""
    total = 0

    def add(layer, inputs, output):
        nonlocal total
        _, channels, *_ = inputs[0].shape
        _, filters, height, width = output.shape
        total += channels * math.prod(layer.kernel_size) * filters * height * width

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    model.eval()(torch.zeros(1, *shape))
    return total


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 13, 22)])
@pytest.mark.parametrize(("depth", "kernel"), [(3, 3), (4, 5), (8, 3), (11, 1)])
def test_the_time_that_is_counted_is_the_time_that_is_taken(shape, depth, kernel):
    budget = 600_000
    width = width_for(budget, shape, depth, kernel)
    layers = convolutions(shape, depth, width, kernel)
    model = models.constrained_time_cnn(shape, 10, budget, depth, kernel)
    assert len(layers) == depth == sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert time_complexity(layers) == counted(model, shape)
    distances = {
        other: abs(time_complexity(convolutions(shape, depth, other, kernel)) - budget) for other in range(1, 400)
    }
    assert width == min(distances, key=distances.__getitem__)


def test_the_formula_at_a_known_value():
    """Three layers of 2, 4 and 8 channels on 8x8, 4x4 and 2x2 pixels with filters of 3x3."""
    layers = convolutions((1, 8, 8), 3, 8, 3)
    assert time_complexity(layers) == 1 * 9 * 2 * 64 + 2 * 9 * 4 * 16 + 4 * 9 * 8 * 4


def test_depth_is_traded_for_width_at_equal_cost():
    costs, widths = [], []
    for depth in (4, 8, 16, 32):
        model = models.constrained_time_cnn(IMAGES, 10, 40_000_000, depth)
        costs.append(counted(model, IMAGES))
        widths.append(model[-1].in_features)
    assert max(abs(cost / 40_000_000 - 1) for cost in costs) < 0.02
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 4


def test_the_document_has_the_channels_that_a_budget_gives():
    rows = re.findall(r"^\| (\d+) \| (\d+), (\d+), (\d+) \| ([\d,]+) \|$", DOCUMENT, re.MULTILINE)
    assert [row[0] for row in rows] == ["4", "8", "16", "32"]
    for depth, *channels, time in rows:
        model = meta(models.constrained_time_cnn, IMAGES, 10, 40_000_000, int(depth))
        found = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        assert list(dict.fromkeys(layer.out_channels for layer in found)) == [int(number) for number in channels]
        layers = convolutions(IMAGES, int(depth), int(channels[-1]), 3)
        assert f"{time_complexity(layers):,}" == time


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_recurrent_network_is_torchs_layer_and_a_linear_one_on_its_last_state(cell, bidirectional):
    torch.manual_seed(0)
    model = models.recurrent((7, 5), 3, cell, hidden=6, layers=2, bidirectional=bidirectional).eval()
    whole = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](5, 6, 2, batch_first=True, bidirectional=bidirectional)
    own = dict(model.named_parameters())
    names = {name: f"{name.split('_l')[1][0]}.cell.{name.replace('_l1', '_l0')}" for name in whole._flat_weights_names}
    whole.load_state_dict({name: own[other] for name, other in names.items()})
    sequences = torch.randn(4, 7, 5)
    state = whole(sequences)[1]
    last = (state[0] if cell == "lstm" else state).unflatten(0, (2, -1))[1]  # of the second layer, by direction
    expected = model[-1](last.transpose(0, 1).flatten(1))
    torch.testing.assert_close(model(sequences), expected)


def test_images_are_read_row_by_row():
    torch.manual_seed(0)
    model = models.recurrent((2, 6, 5), 3, hidden=4)
    images = torch.randn(3, 2, 6, 5)
    rows = torch.stack([torch.cat([images[:, 0, row], images[:, 1, row]], 1) for row in range(6)], 1)
    assert rows.shape == (3, 6, 10)
    torch.testing.assert_close(model(images), model[1:](rows))


def test_dropout_of_a_recurrent_network_comes_from_the_global_generator():
    model = models.recurrent((7, 5), 3, hidden=6, layers=2, dropout=0.5)
    inputs = torch.randn(2, 7, 5)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(inputs))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(("build", "words"), [
    (lambda: models.mlp((5,), 2, norm="bach"), "model.norm 'bach' is not known: did you mean 'batch'?"),
    (lambda: models.resnet(IMAGES, 2, activation="rely"), "model.activation 'rely' is not known: did you mean 'relu'?"),
    (lambda: models.mlp((5,), 2, [11], norm="group"), "model.norm=group wants a number of channels with a divisor"),
    (lambda: models.densenet(IMAGES, 2, depth=41), "model.depth must be 6n + 4 (10, 16, ... at most 1000) with"),
    (lambda: models.densenet(IMAGES, 2, 41, bottleneck=False), "model.depth must be 3n + 4 (7, 10, ... at most 1000)"),
    (lambda: models.densenet(IMAGES, 2, growth=0), "model.growth must be a whole number of at least 1, got 0"),
    (lambda: models.densenet((5,), 2), "model densenet wants images"),
    (lambda: models.lenet(IMAGES, 2, pooling_dropout=1.5), "model.pooling_dropout must be a number of at least 0 and"),
    (lambda: models.densenet(IMAGES, 2, dropout=1.0), "model.dropout must be a number of at least 0 and below 1"),
    (lambda: models.constrained_time_cnn(IMAGES, 2, 100), "model.budget must be at least 45504"),
    (lambda: models.constrained_time_cnn(IMAGES, 2, depth=2), "model.depth must be a whole number from 3 to 1000"),
    (lambda: models.constrained_time_cnn(IMAGES, 2, kernel=4), "model.kernel must be an odd number up to 31, got 4"),
    (lambda: models.constrained_time_cnn((1, 3, 9), 2), "wants images of at least 4x4 pixels, got 3x9"),
    (lambda: models.recurrent(IMAGES, 2, "grue"), "model.cell 'grue' is not known: did you mean 'gru'?"),
    (lambda: models.recurrent((5,), 2), "model recurrent wants sequences [steps, features], or images"),
    (lambda: models.recurrent(IMAGES, 2, layers=1001), "model.layers must be at most 1000, got 1001"),
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(build, words):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        build()
    assert words in str(caught.value)


SMALL = {
    "mlp": ["model.hidden=[16]", "model.norm=batch", "model.activation=prelu"],
    "resnet": ["model.depth=8", "model.width=4", "model.norm=group"],
    "densenet": ["model.depth=10", "model.growth=4"],
    "constrained_time": ["model.budget=100000", "model.depth=4"],
    "recurrent": ["model.hidden=16", "model.layers=2", "model.dropout=0.1"],
    "torchvision": [],
    "lenet": ["data=arrays", "data.file=digits.npz", "model.norm=instance", "model.activation=tanh"],
}


@pytest.mark.parametrize("model", SMALL)
def test_every_network_trains_on_digits_and_votes(model, call, workplace, small_digits):
    if model == "lenet":  # 8x8 pixels are too few for it
        large = small_digits.train.inputs.repeat_interleave(4, 2).repeat_interleave(4, 3)
        np.savez(workplace / "digits.npz", inputs=large.numpy(), labels=small_digits.train.labels.numpy())
    quick = ["data.limit=60", "epochs=1", "n_seeds=2", "engine=sequential", "run=it"]
    outcome = call("train", f"model={model}", *SMALL[model], *quick)
    assert outcome.status == 0, outcome.err
    for seed in (0, 1):
        member = json.loads((workplace / "checkpoints" / "it" / f"seed-000{seed}" / "member.json").read_text())
        assert member["diverged"] is None
        assert np.isfinite(member["history"][0]["validation_loss"])
    assert call("predict", "run=it").status == 0


def test_sequences_in_a_file_are_read_step_by_step(call, workplace):
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    steps = generator.normal(size=(300, 6, 3)).astype(np.float32)
    steps[:, 2] += 5 * np.eye(3, dtype=np.float32)[labels]  # what tells the classes comes early
    np.savez(workplace / "sequences.npz", inputs=steps, labels=labels)
    quick = ["data=arrays", "data.file=sequences.npz", "epochs=15", "batch_size=16", "n_seeds=1", "run=it"]
    outcome = call("train", "model=recurrent", "model.hidden=24", "optimizer.lr=0.01", "engine=sequential", *quick)
    assert outcome.status == 0, outcome.err
    member = json.loads((workplace / "checkpoints" / "it" / "seed-0000" / "member.json").read_text())
    assert member["history"][-1]["validation_accuracy"] > 0.8


def test_the_documents_commands_with_frozen_parts_run(call, workplace):
    commands = re.findall(r"^python -m seedvote.train (.*frozen=.*)$", DOCUMENT, re.MULTILINE)
    assert len(commands) == 2
    for number, command in enumerate(commands):
        small = ["model.depth=8", "model.width=4"] if "resnet" in command else ["model.hidden=[16]"]
        arguments = shlex.split(command, comments=True)
        quick = ["data.limit=60", "epochs=1", "n_seeds=1", "engine=sequential", f"run=it{number}"]
        assert call("train", *arguments, *quick, *small).status == 0
