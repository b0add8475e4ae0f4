"""Schemes for one tensor: their formulas, on layers of every kind."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from seedvote.initialization.draws import FOR_ANY_SHAPE, FOR_WEIGHTS, draw_of

# A layer, its fan_in and its fan_out, counted by hand: how many inputs an output has, and how many outputs an input.
LAYERS = {
    "linear": (lambda: nn.Linear(400, 600), 400, 600),
    "convolution": (lambda: nn.Conv2d(64, 96, 5), 64 * 25, 96 * 25),
    "convolution_1d": (lambda: nn.Conv1d(128, 256, 7), 128 * 7, 256 * 7),
    "grouped": (lambda: nn.Conv2d(128, 256, 3, groups=4), 32 * 9, 64 * 9),
    "depthwise": (lambda: nn.Conv2d(2048, 2048, 5, groups=2048), 25, 25),
    "transposed": (lambda: nn.ConvTranspose2d(64, 160, 3), 64 * 9, 160 * 9),
    "transposed_grouped": (lambda: nn.ConvTranspose2d(256, 128, 3, groups=4), 64 * 9, 32 * 9),
}
SLOPE = 0.2
GAINS = {
    "linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + SLOPE**2)),
    "selu": 0.75,
}  # fmt: skip
FORMULAS = [
    ({"scheme": "normal"}, lambda fan_in, fan_out: 0.01**2),
    ({"scheme": "normal", "std": 0.3}, lambda fan_in, fan_out: 0.3**2),
    ({"scheme": "uniform", "a": -0.2, "b": 0.4}, lambda fan_in, fan_out: 0.6**2 / 12),
    ({"scheme": "scaled_normal"}, lambda fan_in, fan_out: 1 / fan_in),
    ({"scheme": "scaled_normal", "scale": 3.0, "mode": "fan_out"}, lambda fan_in, fan_out: 9 / fan_out),
    ({"scheme": "lecun_normal"}, lambda fan_in, fan_out: 1 / fan_in),
    ({"scheme": "lecun_uniform"}, lambda fan_in, fan_out: 1 / (3 * fan_in)),
    *(
        ({"scheme": f"xavier_{shape}", "nonlinearity": "tanh"}, lambda i, o: 2 * 25 / 9 / (i + o))
        for shape in ("normal", "uniform")
    ),
    *(
        ({"scheme": f"kaiming_{shape}", "mode": mode}, formula)
        for shape in ("normal", "uniform")
        for mode, formula in (("fan_in", lambda i, o: 2 / i), ("fan_out", lambda i, o: 2 / o))
    ),
    ({"scheme": "convolution_aware"}, lambda fan_in, fan_out: 2 / fan_in),
    ({"scheme": "convolution_aware", "noise": 0.0}, lambda fan_in, fan_out: 2 / fan_in),
]
OPTIONS = {"constant": {"value": 0.3}, "uniform": {"a": -1.0, "b": 1.0}}


def drawn(layer: nn.Module, spec: object, seed: int = 0) -> torch.Tensor:
    draw_of(spec, "init").fill(layer, "layer.weight", layer.weight, torch.Generator().manual_seed(seed))
    return layer.weight.detach()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("spec", "formula"),
    FORMULAS,
    ids=lambda value: "-".join(map(str, dict(value).values())) if isinstance(value, dict) else "",
)
def test_variances_are_those_of_the_formulas(layer, spec, formula):
    build, fan_in, fan_out = LAYERS[layer]
    weight = drawn(build(), spec)
    assert weight.numel() > 40_000
    assert float(weight.var()) == pytest.approx(formula(fan_in, fan_out), rel=0.02)
    if spec["scheme"] not in ("uniform", "convolution_aware"):
        assert abs(float(weight.mean())) < 4 * float(weight.std()) / math.sqrt(weight.numel())


@pytest.mark.parametrize(
    ("spec", "bound"),
    [
        ({"scheme": "lecun_uniform"}, 1 / math.sqrt(400)),
        ({"scheme": "kaiming_uniform"}, math.sqrt(2) * math.sqrt(3 / 400)),
        ({"scheme": "kaiming_uniform", "nonlinearity": "linear"}, math.sqrt(3 / 400)),
        ({"scheme": "xavier_uniform"}, math.sqrt(6 / 1000)),
        ({"scheme": "uniform", "a": -0.7, "b": 0.7}, 0.7),
    ],
)
def test_uniform_schemes_fill_their_bounds_and_no_more(spec, bound):
    weight = drawn(nn.Linear(400, 600), spec)
    assert 0.999 * bound < float(weight.max()) <= bound * (1 + 1e-6)
    assert -bound * (1 + 1e-6) <= float(weight.min()) < -0.999 * bound


@pytest.mark.parametrize("nonlinearity", GAINS)
@pytest.mark.parametrize(
    "scheme", ["kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "orthogonal"]
)
def test_gains(scheme, nonlinearity):
    plain = drawn(nn.Linear(30, 20), {"scheme": scheme, "nonlinearity": "linear"})
    spec = {"scheme": scheme, "nonlinearity": nonlinearity, "negative_slope": SLOPE}
    torch.testing.assert_close(drawn(nn.Linear(30, 20), spec), GAINS[nonlinearity] * plain)


@pytest.mark.parametrize(
    ("spec", "torchs"),
    [
        ({"scheme": "kaiming_normal"}, lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g)),
        (
            {"scheme": "kaiming_uniform", "mode": "fan_out", "nonlinearity": "leaky_relu", "negative_slope": 0.3},
            lambda w, g: nn.init.kaiming_uniform_(w, 0.3, "fan_out", generator=g),
        ),
        ({"scheme": "xavier_normal"}, lambda w, g: nn.init.xavier_normal_(w, generator=g)),
        (
            {"scheme": "xavier_uniform", "nonlinearity": "tanh"},
            lambda w, g: nn.init.xavier_uniform_(w, 5 / 3, generator=g),
        ),
        ({"scheme": "orthogonal"}, lambda w, g: nn.init.orthogonal_(w, generator=g)),
        ({"scheme": "normal", "mean": 1.0}, lambda w, g: nn.init.normal_(w, 1.0, 0.01, generator=g)),
    ],
)
@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_what_torch_has_is_torchs_to_the_last_bit(layer, spec, torchs):
    build = LAYERS[layer][0]
    torchs(weight := build().weight, torch.Generator().manual_seed(5))
    assert torch.equal(drawn(build(), spec, seed=5), weight)


@pytest.mark.parametrize(
    "layer", [nn.Linear(40, 25), nn.Linear(25, 40), nn.Conv2d(6, 20, 3), nn.Conv2d(2, 40, 3)], ids=str
)
@pytest.mark.parametrize("nonlinearity", ["linear", "relu"])
def test_orthogonal_rows_or_columns(layer, nonlinearity):
    matrix = drawn(layer, {"scheme": "orthogonal", "nonlinearity": nonlinearity}).flatten(1).double()
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    products = short @ short.T
    assert float((products - GAINS[nonlinearity] ** 2 * torch.eye(len(short))).abs().max()) < 1e-5


def test_each_group_is_orthogonal_for_itself():
    weight = drawn(nn.Conv2d(8, 12, 3, groups=4), "orthogonal")
    for group in weight.flatten(1).double().chunk(4):
        assert float((group @ group.T - torch.eye(3)).abs().max()) < 1e-5
    turned = drawn(nn.ConvTranspose2d(12, 8, 3, groups=4), "orthogonal")
    for group in turned.double().chunk(4):
        rows = group.transpose(0, 1).flatten(1)
        assert float((rows @ rows.T - torch.eye(2)).abs().max()) < 1e-5


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(9, 9, bias=False),
        nn.Conv1d(4, 4, 5, padding="same", bias=False),
        nn.Conv2d(4, 4, 3, padding="same", bias=False),
        nn.Conv2d(6, 6, 3, padding="same", groups=3, bias=False),
        nn.Conv2d(4, 4, 1, bias=False),
        nn.ConvTranspose2d(4, 4, 3, padding=1, bias=False),
        nn.ConvTranspose2d(6, 6, 3, padding=1, groups=2, bias=False),
        nn.Conv3d(2, 2, 3, padding="same", bias=False),
    ],
    ids=str,
)
def test_identity_keeps_the_signal(layer):
    drawn(layer, "identity")
    sides = {nn.Linear: (9,), nn.Conv1d: (4, 9), nn.Conv3d: (2, 5, 6, 7)}
    channels = getattr(layer, "in_channels", 0)
    inputs = torch.randn(3, *sides.get(type(layer), (channels, 7, 8)), generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(inputs), inputs)


def test_identity_of_other_shapes_keeps_what_fits_and_adds_zeros():
    inputs = torch.arange(1.0, 6.0)
    narrow, wide = nn.Linear(5, 3, bias=False), nn.Linear(5, 7, bias=False)
    drawn(narrow, "identity"), drawn(wide, "identity")
    assert narrow(inputs).tolist() == [1, 2, 3]
    assert wide(inputs).tolist() == [1, 2, 3, 4, 5, 0, 0]


@pytest.mark.parametrize(
    "layer", [nn.Linear(300, 200), nn.Conv2d(20, 200, 5), nn.Conv2d(60, 200, 3, groups=2)], ids=str
)
@pytest.mark.parametrize("connections", [1, 15])
def test_sparse_gives_each_unit_exactly_so_many_connections(layer, connections):
    rows = drawn(layer, {"scheme": "sparse", "connections": connections}).flatten(1)
    assert (rows != 0).sum(1).tolist() == [connections] * 200
    assert len({tuple(row.nonzero().flatten().tolist()) for row in rows}) > 100 if connections > 1 else True
    # Every input is as likely as any other.
    inputs_used = (rows != 0).sum(0).double()
    assert float(inputs_used.max()) < inputs_used.mean() + 6 * math.sqrt(float(inputs_used.mean())) + 1


def test_sparse_weights_are_normal_and_few_inputs_are_all_used():
    rows = drawn(nn.Linear(500, 4000), {"scheme": "sparse", "std": 0.5})
    assert float(rows[rows != 0].var()) == pytest.approx(0.25, rel=0.02)
    assert int((drawn(nn.Linear(9, 20), "sparse") != 0).sum()) == 9 * 20


@pytest.mark.parametrize(("kernel", "dimensions"), [((3, 3), 5), ((5, 5), 13), ((4, 4), 10), ((3, 5), 8), ((2, 2), 4)])
def test_convolution_aware_kernels_are_orthogonal_in_fourier_space(kernel, dimensions):
    inputs = 2 * dimensions + 1
    layer = nn.Conv2d(inputs, 6, kernel).double()
    spectra = np.fft.fft2(drawn(layer, {"scheme": "convolution_aware", "noise": 0.0}).numpy())
    assert abs(spectra.imag).max() < 1e-10
    for of_filter in spectra.reshape(6, inputs, -1):
        for start in range(0, inputs, dimensions):
            basis = of_filter[start : start + dimensions]
            products = basis @ basis.conj().T
            # One size for all kernels: 2 / fan_in a weight in the mean, times the factor of the transform.
            size = 2 / (inputs * math.prod(kernel)) * math.prod(kernel) ** 2
            assert np.allclose(products / size, np.eye(len(basis)), atol=1e-5)


def test_convolution_aware_noise_breaks_the_symmetry_by_as_much_as_it_says():
    layer = nn.Conv2d(40, 60, 3)
    weight = drawn(layer, {"scheme": "convolution_aware", "noise": 0.1})
    odd = (weight - weight.flip(2, 3).roll((1, 1), (2, 3))) / 2
    # The place 0, 0 is its own mirror image and has no odd part; elsewhere, half of the noise's variance is odd.
    expected = 0.1 * math.sqrt(0.5 * 8 / 9) / math.sqrt(1 + 0.1**2)
    assert float(odd.square().mean().sqrt() / weight.square().mean().sqrt()) == pytest.approx(expected, rel=0.02)


def test_convolution_aware_without_a_kernel_is_orthogonal():
    for layer in (nn.Linear(50, 30), nn.Conv2d(50, 30, 1), nn.ConvTranspose2d(50, 30, 1)):
        rows = drawn(layer, "convolution_aware").flatten(1)
        rows = rows.T if isinstance(layer, nn.ConvTranspose2d) else rows
        assert torch.allclose(rows @ rows.T, 2 * torch.eye(30), atol=1e-5)
    assert abs(float(drawn(nn.Conv2d(1, 1, 1), "convolution_aware"))) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("scheme", sorted({**FOR_ANY_SHAPE, **FOR_WEIGHTS}))
@pytest.mark.parametrize("layer", [nn.Linear(12, 20), nn.Conv2d(6, 8, 3, groups=2)], ids=str)
def test_every_draw_follows_the_given_generator_alone(scheme, layer):
    spec = {"scheme": scheme, **OPTIONS.get(scheme, {})}
    start = layer.weight.detach().clone()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = drawn(layer, spec).clone()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with torch.no_grad():
        layer.weight.copy_(start)
    assert torch.equal(drawn(layer, spec), first)
    same_for_all = scheme in ("default", "constant", "identity")
    assert torch.equal(drawn(layer, spec, seed=1), first) == same_for_all


@pytest.mark.parametrize("scheme", sorted(FOR_WEIGHTS))
def test_schemes_for_weights_refuse_vectors(scheme):
    norm = nn.BatchNorm2d(4)
    with pytest.raises(
        ValueError, match=r"^init cannot draw layer.weight: it needs a weight of at least two axes, got"
    ):
        drawn(norm, scheme)


@pytest.mark.parametrize("scheme", sorted(FOR_ANY_SHAPE))
def test_schemes_for_any_shape_take_vectors(scheme):
    norm = nn.BatchNorm2d(4000)
    weight = drawn(norm, {"scheme": scheme, **OPTIONS.get(scheme, {})})
    mean = {"default": 1.0, "constant": 0.3}.get(scheme, 0.0)
    assert float(weight.mean()) == pytest.approx(mean, abs=0.05)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("kaiming", "scheme of init 'kaiming' is not known: did you mean 'kaiming_normal'? there are"),
        ({"scheme": "normal", "sdt": 1}, "option of init, scheme normal: 'sdt' is not known: did you mean 'std'?"),
        ({"scheme": "normal", "std": "0.1"}, "init, scheme normal: std must be a finite number, got '0.1'"),
        ({"scheme": "normal", "std": math.inf}, "init, scheme normal: std must be a finite number, got inf"),
        ({"scheme": "normal", "std": -1}, "init cannot draw layer.weight: std must be at least 0, got -1"),
        ({"scheme": "sparse", "connections": 1.5}, "init, scheme sparse: connections must be a whole number, got 1.5"),
        ({"scheme": "sparse", "connections": 0}, "init cannot draw layer.weight: connections must be at least 1"),
        ({"scheme": "uniform", "a": 1.0}, "init, scheme uniform needs b"),
        ({"scheme": "uniform", "a": 1.0, "b": 0.0}, "init cannot draw layer.weight: b must be at least 1.0, got 0.0"),
        ({"scheme": "constant"}, "init, scheme constant needs value"),
        ({"scheme": "constant", "value": True}, "init, scheme constant: value must be a finite number, got True"),
        ({"scheme": "lecun_normal", "mode": "fan_in"}, "init, scheme lecun_normal has no option mode"),
        ({"scheme": "kaiming_normal", "mode": "out"}, "init cannot draw layer.weight: mode 'out' is not known"),
        ({"scheme": "orthogonal", "nonlinearity": "gelu"}, "init cannot draw layer.weight: nonlinearity 'gelu' is not"),
        ({"scheme": "convolution_aware", "noise": -0.1}, "init cannot draw layer.weight: noise must be at least 0"),
        ({}, "init wants one of scheme, _target_, add or mul, got {}"),
        (None, "init wants one of scheme, _target_, add or mul, got None"),
        ({"add": [1]}, "init.add wants a list of at least two schemes or numbers, got [1]"),
        ({"add": [1, 2], "std": 1}, "init has add and std: options belong to a scheme in add"),
        ({"mul": [1, {"scheme": "normal", "std": None}]}, "init.mul[1], scheme normal: std must be a finite number"),
    ],
)  # fmt: skip
def test_mistakes_are_named(spec, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        drawn(nn.Linear(3, 4), spec)
