"""The linear layer of stacked members: batched matrix products that round as each member's own would."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seedvote.matmul import BY_ONEDNN, precision

LINE = 64  # bytes on which torch lets every tensor begin on a CPU
SMALL = 16**3  # multiplications up to which torch keeps a product from oneDNN, if it otherwise lets it multiply


class StackedLinear(torch.autograd.Function):
    """``[G, B, in]`` times weights ``[G, out, in]`` plus biases ``[G, out]``, if there are any: ``[G, B, out]``.

    torch's own backward gives the weights' gradient as ``[G, in, out]``, which is then copied into their layout.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the outputs."""
        features = features.contiguous()
        ctx.save_for_backward(features, weight)
        return products(features, weight.transpose(1, 2), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Compute the gradients of what needs one."""
        features, weight = ctx.saved_tensors
        needs_features, needs_weight, needs_bias = ctx.needs_input_grad
        gradient = gradient.contiguous()
        return (
            products(gradient, weight) if needs_features else None,
            products(gradient.transpose(1, 2), features) if needs_weight else None,
            gradient.sum(1) if needs_bias else None,
        )


def products(first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply ``[G, n, k]`` by ``[G, k, m]`` and add ``[G, m]``, if given: ``[G, n, m]``, each as it would be alone.

    Each member's matrices lie without gaps behind the one before's.

    How a product is rounded may depend on where its matrices begin: MKL's kernels for some processors take what comes
    before the first whole cache line by itself. Where a member's do not begin as they would alone, they are copied.
    Products with a vector are others in a batch than alone, and small ones may be left to another library. On several
    threads MKL divides a product otherwise than a batch of them; oneDNN does not.
    """
    (count, rows, between), columns = first.shape, second.shape[2]
    sizes = (rows * between, between * columns, rows * columns)
    on_lines = all(size * first.element_size() % LINE == 0 for size in sizes)
    by_one_library = rows * between * columns > SMALL and 1 not in (rows, between, columns)
    undivided = torch.get_num_threads() == 1 or precision() == BY_ONEDNN
    if (on_lines and by_one_library and undivided) or first.device.type != "cpu":
        return torch.bmm(first, second) if bias is None else torch.baddbmm(bias[:, None], first, second)
    outputs = first.new_empty(count, rows, columns)
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        alone = one.clone(), other.clone()
        outputs[place] = alone[0] @ alone[1] if bias is None else torch.addmm(bias[place], *alone)
    return outputs
