"""LSUV: unit variance of every layer, measured here with hooks of our own."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from seedvote import models
from seedvote.initialization import lsuv

IMAGES = np.random.default_rng(0).normal(0.3, 2.0, (64, 3, 32, 32)).astype(np.float32)
NETWORKS = {
    "mlp": functools.partial(models.mlp, hidden=[40, 30, 20], dropout=0.5),
    "lenet": models.lenet,
    "resnet": functools.partial(models.resnet, depth=8, width=8),
}


def variances(model: nn.Module, inputs: np.ndarray) -> dict[str, float]:
    """The variance of each linear layer's and convolution's outputs in float64, by NumPy."""
    found: dict[str, float] = {}

    def note(name, module, given, output):
        found[name] = float(np.var(output.double().numpy()))

    hooks = [
        module.register_forward_hook(functools.partial(note, name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    for module in model.modules():
        module.train(not isinstance(module, nn.Dropout))
    with torch.no_grad():
        model(torch.from_numpy(inputs))
    for hook in hooks:
        hook.remove()
    return found


def initialised(name: str, seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = NETWORKS[name]((3, 32, 32), 10)
    lsuv(model, torch.Generator().manual_seed(seed), inputs=IMAGES, samples=64, **options)
    return model


@pytest.mark.parametrize("bias", [0.0, 0.7])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_has_unit_variance(name, bias):
    before = variances(NETWORKS[name]((3, 32, 32), 10), IMAGES)
    after = variances(initialised(name, bias=bias), IMAGES)
    assert after.keys() == before.keys()
    assert max(abs(variance - 1) for variance in after.values()) < 0.01
    assert max(abs(variance - 1) for variance in before.values()) > 0.2


def test_random_biases_take_several_scalings():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 30))
    inputs = np.random.default_rng(0).normal(size=(100, 10)).astype(np.float32)
    nn.init.normal_(model[0].bias, std=0.7)
    lsuv(model, torch.Generator().manual_seed(0), inputs=inputs, bias=None)
    assert max(abs(variance - 1) for variance in variances(model, inputs).values()) < 0.01
    nn.init.normal_(model[0].bias, std=3)
    with pytest.raises(
        ValueError, match=r"^init=lsuv: the outputs of 0 do not get to unit variance within 0.001 in 10"
    ):
        lsuv(model, torch.Generator().manual_seed(0), inputs=inputs, bias=None)


def test_weights_are_scaled_orthogonal_matrices():
    for layer in initialised("lenet").children():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            rows = layer.weight.detach().double().flatten(1)
            rows = rows if rows.shape[0] <= rows.shape[1] else rows.T
            products = rows @ rows.T
            assert torch.allclose(products / products[0, 0], torch.eye(len(rows)).double(), atol=1e-5)


def test_the_network_is_otherwise_as_it_was():
    torch.manual_seed(0)
    fresh = NETWORKS["resnet"]((3, 32, 32), 10)
    model = initialised("resnet")
    assert all(torch.equal(ours, new) for ours, new in zip(model.buffers(), fresh.buffers(), strict=True))
    assert all(module.training and not module._forward_hooks for module in model.modules())
    for (name, ours), new in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, new) == (ours.ndim == 1 and name != "8.bias" and "bias" not in name) or "bias" in name


def test_draws_follow_the_generator_alone():
    state = [tensor.clone() for tensor in initialised("mlp").state_dict().values()]
    torch.manual_seed(77)
    before = torch.get_rng_state()
    model = NETWORKS["mlp"]((3, 32, 32), 10)
    torch.set_rng_state(before)
    lsuv(model, torch.Generator().manual_seed(0), inputs=IMAGES, samples=64)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(*pair) for pair in zip(model.state_dict().values(), state, strict=True))
    other = initialised("mlp", seed=1).state_dict()
    assert not torch.equal(other["1.weight"], model.state_dict()["1.weight"])


def test_only_so_many_samples_are_used():
    model = models.lenet((3, 32, 32), 10)
    lsuv(model, torch.Generator().manual_seed(0), inputs=IMAGES, samples=16)
    assert max(abs(variance - 1) for variance in variances(model, IMAGES[:16]).values()) < 0.002
    assert max(abs(variance - 1) for variance in variances(model, IMAGES).values()) > 0.002


def test_a_layer_used_twice_is_scaled_where_it_is_used_first():
    layer = nn.Linear(10, 10)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    inputs = np.random.default_rng(0).normal(size=(100, 10)).astype(np.float32)
    lsuv(model, torch.Generator().manual_seed(0), inputs=inputs)
    with torch.no_grad():
        assert float(layer(torch.from_numpy(inputs)).var(correction=0)) == pytest.approx(1, abs=0.01)


def test_a_network_in_double_precision():
    model = models.mlp((3, 32, 32), 10).double()
    lsuv(model, torch.Generator().manual_seed(0), inputs=IMAGES)
    with torch.no_grad():
        assert float(model(torch.from_numpy(IMAGES).double()).var(correction=0)) == pytest.approx(1, abs=0.01)


def test_outputs_that_do_not_vary_are_an_error():
    with pytest.raises(ValueError, match=r"^init=lsuv cannot scale 1: the variance of its outputs is 0.0$"):
        lsuv(models.mlp((3, 32, 32), 10), torch.Generator(), inputs=np.zeros((8, 3, 32, 32), np.float32))


@pytest.mark.parametrize("options", [{"tolerance": 0}, {"iterations": 0}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"^init.tolerance must be above 0 and init.iterations at least 1, got"):
        initialised("mlp", **options)
