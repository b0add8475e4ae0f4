"""Who multiplies float32 matrices."""

from __future__ import annotations

import functools

import pytest
import torch

from recipes import quick_recipe
from seedvote import matmul, models
from seedvote.engines.fused import Fused, rounds_alike
from seedvote.engines.process import Process
from seedvote.engines.sequential import Sequential
from seedvote.matmul import choose_matmul, precision, set_precision
from seedvote.types import TrainedMember

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_torch_has_it():
    before = precision()
    set_precision("none")
    yield
    set_precision(before)


def on(monkeypatch, name):
    monkeypatch.setattr(matmul, "processor", lambda: name)


def test_a_choice_holds_until_the_next_one(monkeypatch):
    on(monkeypatch, "AMD EPYC")
    chosen = choose_matmul("auto")
    assert precision() == ("none" if chosen is None else "bf16")
    assert choose_matmul("torch") is None
    assert precision() == "none"


def test_torch_is_left_alone_where_it_is_asked_for_and_on_other_processors(monkeypatch):
    on(monkeypatch, "AMD EPYC")
    assert choose_matmul("torch") is None
    on(monkeypatch, "Intel(R) Xeon(R)")
    assert choose_matmul("auto") is None
    on(monkeypatch, "AMD EPYC")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert choose_matmul("auto") is None
    assert precision() == "none"


@pytest.mark.parametrize("place", range(2 * len(matmul.LOOKED_AT)))
def test_a_product_that_loses_precision_puts_everything_back(monkeypatch, place):
    on(monkeypatch, "AMD EPYC")
    asked = []

    def errors():
        asked.append(precision())
        return [1e-5 * (1 + (len(asked) == 2 and number == place) * 4) for number in range(2 * len(matmul.LOOKED_AT))]

    monkeypatch.setattr(matmul, "_errors", errors)
    assert choose_matmul("auto") is None
    assert asked == ["none", "bf16"]
    assert precision() == "none"


def test_bfloat16_would_be_noticed():
    own = matmul._errors()
    generator = torch.Generator().manual_seed(0)
    for number, (rows, between, columns) in enumerate(matmul.LOOKED_AT):
        first, second = (torch.randn(3, *size, generator=generator) for size in ((rows, between), (between, columns)))
        rounded = first[0].bfloat16().double() @ second[0].bfloat16().double()
        error = (rounded - first[0].double() @ second[0].double()).abs().max()
        assert error > 100 * matmul.MORE * own[2 * number]


@pytest.mark.usefixtures("multiplied_by")
def test_products_have_the_precision_of_float32():
    generator = torch.Generator().manual_seed(1)
    for size in (1, 3, 16, 64, 200, 511, 2048):
        first, second = torch.randn(65, size, generator=generator), torch.randn(size, 33, generator=generator)
        exact = first.double() @ second.double()
        # Standard deviations of a number are the root of the size; float32's unit is 6e-8, errors grow like roots.
        bound = 1e-6 * size
        assert (first @ second - exact).abs().max() <= bound
        assert (first.expand(4, -1, -1) @ second.expand(4, -1, -1) - exact).abs().max() <= bound


@pytest.mark.usefixtures("multiplied_by", "threads")
def test_a_stacked_member_is_the_same_alone_among_others_and_in_the_plain_loop(small_digits):
    shape, classes = small_digits.input_shape, len(small_digits.classes)
    build = functools.partial(models.mlp, shape, classes, hidden=[512, 256], dropout=0.2)
    recipe = quick_recipe(small_digits, build_model=build)  # the last of an epoch's batches has 8 samples
    alone, among = (
        {event.seed: event.state for event in events if isinstance(event, TrainedMember)}
        for events in (Fused(workers=1).train(seeds, recipe, small_digits, CPU) for seeds in ([0], [0, 1, 2]))
    )
    assert all(torch.equal(tensor, among[0][name]) for name, tensor in alone[0].items())
    assert rounds_alike(recipe, small_digits)


def test_every_engine_trains_with_the_same_library(small_digits, multiplied_by):
    shape, classes = small_digits.input_shape, len(small_digits.classes)
    build = functools.partial(models.mlp, shape, classes, hidden=[96, 64], dropout=0.2)
    recipe = quick_recipe(small_digits, build_model=build)

    def weights(engine):
        events = engine.train([0, 1, 2], recipe, small_digits, CPU)
        return {event.seed: event.state for event in events if isinstance(event, TrainedMember)}

    expected = weights(Sequential())
    assert rounds_alike(recipe, small_digits)
    for engine in (Process(workers=2), Fused(workers=1), Fused(width=2, workers=2)):
        found = weights(engine)
        assert sorted(found) == [0, 1, 2]
        for seed, state in expected.items():
            assert all(torch.equal(tensor, found[seed][name]) for name, tensor in state.items()), engine
    if multiplied_by == "bf16":
        set_precision("none")
        others = weights(Sequential())
        assert any(not torch.equal(tensor, others[0][name]) for name, tensor in expected[0].items())
