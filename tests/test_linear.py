"""Batched matrix products against one product after another."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from seedvote.engines.linear import StackedLinear, products
from seedvote.matmul import precision, set_precision

SIZES = [
    (4, 4, 4),
    (16, 256, 10),
    (32, 784, 512),
    (32, 11, 10),
    (20, 11, 10),
    (14, 256, 10),
    (64, 64, 512),
    (33, 17, 1),
    (1, 3, 5),
    (8, 12, 30),
    (2, 49, 31),
    (64, 256, 1),
    (64, 1, 16),
    (1, 16, 16),
    (64, 4, 16),
    (64, 5, 16),
    (7, 512, 256),
]


@pytest.fixture(params=SIZES, ids=str)
def matrices(request):
    rows, between, columns = request.param
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(7, rows, between, generator=generator)
    return first, torch.randn(7, between, columns, generator=generator), torch.randn(7, columns, generator=generator)


@pytest.mark.usefixtures("multiplied_by", "threads")
@pytest.mark.parametrize("turned", [False, True])  # as weights are, whose outputs come first
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_product_is_the_same_bits_at_every_place_and_alone(matrices, with_bias, turned):
    def product(members):
        chosen = [tensor[members] for tensor in matrices]
        second = chosen[1].transpose(1, 2).contiguous().transpose(1, 2) if turned else chosen[1]
        return products(chosen[0], second, chosen[2] if with_bias else None)

    alone = product([3])[0]
    first, second, bias = (tensor[3] for tensor in matrices)
    plain = torch.addmm(bias, first, second) if with_bias else first @ second
    torch.testing.assert_close(alone, plain, rtol=1e-5, atol=1e-4)
    for members in ([3, 0], [0, 3], [1, 3, 0], [0, 1, 3], [0, 1, 2, 4, 3], [0, 1, 2, 3, 4, 5, 6]):
        assert torch.equal(product(members)[members.index(3)], alone)


@pytest.mark.parametrize("with_bias", [False, True])
def test_gradients_are_those_of_a_linear_layer(matrices, with_bias):
    features, weight, bias = (tensor.double() for tensor in matrices)
    given = [features, weight.transpose(1, 2), *([bias] if with_bias else [])]
    own = [tensor.contiguous().requires_grad_() for tensor in given]
    outputs = StackedLinear.apply(*own, *([] if with_bias else [None]))
    outputs.sin().sum().backward()
    for place in range(7):
        alone = [tensor[place].detach().clone().requires_grad_() for tensor in own]
        expected = F.linear(*alone)
        expected.sin().sum().backward()
        torch.testing.assert_close(outputs[place], expected, rtol=0, atol=1e-12)
        for stacked, mine in zip(own, alone, strict=True):
            torch.testing.assert_close(stacked.grad[place], mine.grad, rtol=0, atol=1e-12)


def test_a_precision_that_somebody_else_chose_is_not_taken_for_onednns():
    threads, before = torch.get_num_threads(), precision()
    torch.set_num_threads(2)
    set_precision("ieee")
    try:
        generator = torch.Generator().manual_seed(0)
        first, second = torch.randn(5, 7, 512, generator=generator), torch.randn(5, 512, 256, generator=generator)
        assert torch.equal(products(first, second)[0], products(first[:1], second[:1])[0])
    finally:
        torch.set_num_threads(threads)
        set_precision(before)
