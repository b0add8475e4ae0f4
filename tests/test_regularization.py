"""L1, clipping and max-norm against the same things written plainly."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recipes import doubled, quick_recipe
from seedvote import models, schedules
from seedvote.initialization import initial_model
from seedvote.regularization import check_max_norm, limit_norms
from seedvote.seeding import Streams
from seedvote.training import train_member
from seedvote.types import TrainedMember

CPU = torch.device("cpu")
SEED, EPOCHS = 3, 3


def recipe_with(data, **changes):
    sgd = functools.partial(torch.optim.SGD, lr=0.5, momentum=0.5)
    recipe = quick_recipe(
        data, epochs=EPOCHS, build_optimizer=sgd, build_scheduler=schedules.constant, batch_size=50, **changes
    )
    return dataclasses.replace(recipe, build_model=functools.partial(doubled, recipe.build_model))


def trained(recipe, data):
    *_, member = train_member(SEED, recipe, data, CPU)
    assert isinstance(member, TrainedMember)
    return member


def plain_loop(recipe, data, penalty, clip, limit):
    """Train the member with a loss that has a penalty, and with hands on its gradients and weights."""
    streams = Streams(SEED)
    model = initial_model(recipe, streams)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    (mean,), (std,) = data.normalization.mean, data.normalization.std
    inputs = (data.train.inputs.double() - mean) / std
    for epoch in range(1, EPOCHS + 1):
        order = torch.from_numpy(streams.generator("order", epoch).permutation(200))
        for step, chosen in enumerate(order.split(50)):
            torch.manual_seed(streams.number("dropout", epoch, step))
            loss = F.cross_entropy(model(inputs[chosen]), data.train.labels[chosen])
            optimizer.zero_grad()
            (loss + penalty(model)).backward()
            clip(model)
            optimizer.step()
            with torch.no_grad():
                limit(model)
    return model.state_dict()


def nothing(_):
    return 0.0


def weights_of(model):
    return [model[1].weight, model[4].weight]


def scaled_down(model, largest):
    """Each row to a norm of at most ``largest``, in NumPy."""
    for weight in weights_of(model):
        rows = weight.numpy().copy()
        norms = np.sqrt((rows**2).sum(1))
        too_long = norms > largest
        rows[too_long] *= (largest / norms[too_long])[:, None]
        weight.copy_(torch.from_numpy(rows))


def cut(model):
    for parameter in model.parameters():
        parameter.grad = parameter.grad.clamp(-0.01, 0.01)


CASES = {
    "l1": ({"l1": 0.01}, lambda model: 0.01 * sum(w.abs().sum() for w in weights_of(model)), nothing, nothing),
    "l1 on all": (
        {"l1": 0.01, "decay_all": True},
        lambda model: 0.01 * sum(w.abs().sum() for w in model.parameters()),
        nothing,
        nothing,
    ),
    "clip_value": ({"clip_value": 0.01}, nothing, cut, nothing),
    "max_norm": ({"max_norm": 0.8}, nothing, nothing, functools.partial(scaled_down, largest=0.8)),
    "all": (
        {"l1": 0.002, "clip_norm": 0.3, "max_norm": 0.6},
        lambda model: 0.002 * sum(w.abs().sum() for w in weights_of(model)),
        lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3),
        functools.partial(scaled_down, largest=0.6),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_regulariser_is_what_it_is_in_a_plain_loop(case, small_digits):
    changes, *hands = CASES[case]
    recipe = recipe_with(small_digits, **changes)
    found = trained(recipe, small_digits).state
    expected = plain_loop(recipe, small_digits, *hands)
    without = trained(recipe_with(small_digits), small_digits).state
    for name, tensor in expected.items():
        # torch.renorm divides by the norm plus 1e-7.
        assert torch.allclose(found[name], tensor, rtol=0, atol=1e-5 if recipe.max_norm else 1e-11), name
    assert float((found["1.weight"] - without["1.weight"]).abs().max()) > 1e-3


def test_no_units_weights_are_longer_than_max_norm_after_any_step(small_digits):
    longest = []

    class Watching(torch.optim.SGD):
        """Looks at the weights that the last step left."""

        def step(self, closure=None):
            self.see()
            return super().step(closure)

        def see(self):
            if self.state:  # not the first weights
                longest.append(
                    max(float(p.detach().flatten(1).norm(dim=1).max()) for p in self.param_groups[0]["params"])
                )

    made = []

    def build(groups):
        made.append(Watching(groups, lr=0.5, momentum=0.1))
        return made[-1]

    for max_norm, held in ((None, False), (0.5, True)):
        longest.clear()
        trained(
            quick_recipe(small_digits, build_optimizer=build, build_scheduler=schedules.constant, max_norm=max_norm),
            small_digits,
        )
        made[-1].see()
        assert (max(longest) <= 0.5 * (1 + 1e-6)) == held
        if held:
            assert min(longest) > 0.49  # some unit stands at the border


def test_max_norm_goes_over_a_filter_and_leaves_the_rest_alone():
    torch.manual_seed(0)
    model = models.lenet((3, 32, 32), 10).to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    limit_norms(model.parameters(), 0.55)
    shortened = 0
    for name, tensor in model.state_dict().items():
        if name.endswith("bias"):
            assert torch.equal(tensor, before[name])
            continue
        rows, old = tensor.flatten(1).double(), before[name].flatten(1).double()
        norms = old.norm(dim=1)
        assert torch.allclose(rows.norm(dim=1), norms.clamp(max=0.55), rtol=1e-6)
        assert torch.allclose(rows / rows.norm(dim=1, keepdim=True), old / norms[:, None], atol=1e-6)
        assert torch.equal(rows[norms < 0.55], old[norms < 0.55])
        shortened += int((norms > 0.55).sum())
    assert 0 < shortened < 298


@pytest.mark.parametrize(
    "layer", [torch.nn.ConvTranspose2d(3, 4, 3), torch.nn.Embedding(5, 3), torch.nn.ConvTranspose1d(2, 2, 2)]
)
def test_max_norm_refuses_layers_whose_units_it_does_not_know(layer):
    with pytest.raises(ValueError, match=rf"units of layer 1 \({type(layer).__name__}\): set max_norm=null"):
        check_max_norm(torch.nn.Sequential(torch.nn.ReLU(), layer))


def test_a_larger_l1_makes_more_weights_small(small_digits):
    small = [
        float(
            (trained(recipe_with(small_digits, l1=strength), small_digits).state["1.weight"].abs() < 0.02)
            .double()
            .mean()
        )
        for strength in (0.0, 0.003, 0.01)
    ]
    assert small[0] < small[1] < small[2]


DROPOUTS = {
    "mlp": (functools.partial(models.mlp, (1, 8, 8), 10, [16, 8]), {"dropout": [3, 6], "input_dropout": [1]}),
    "lenet": (functools.partial(models.lenet, (1, 28, 28), 10), {"dropout": [9, 12], "pooling_dropout": [3, 7]}),
    "resnet": (functools.partial(models.resnet, (3, 8, 8), 10, 8, 4), {"dropout": [8]}),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_stands_where_it_is_said_to(name):
    build, places = DROPOUTS[name]
    plain = build()
    assert not any(isinstance(module, torch.nn.Dropout) for module in plain.modules())
    for option, expected in places.items():
        model = build(**{option: 0.4})
        found = [place for place, module in enumerate(model) if isinstance(module, torch.nn.Dropout)]
        assert found == expected
        assert {model[place].p for place in found} == {0.4}
        assert [tuple(parameter.shape) for parameter in model.parameters()] == [
            tuple(parameter.shape) for parameter in plain.parameters()
        ]
        with pytest.raises(ValueError, match=f"model.{option} must be a number of at least 0 and below 1, got 1"):
            build(**{option: 1})
