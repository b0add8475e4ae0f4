"""What keeps weights and their gradients small beside weight decay: L1, clipping, max-norm.

Everywhere ``stacked`` means that each parameter has a first axis of members, each of whom is treated by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from seedvote.types import Recipe


def is_matrix(parameter: nn.Parameter, stacked: bool = False) -> bool:
    """Say whether a parameter has two axes at least: a weight, not a bias or a norm's scale."""
    return parameter.ndim - stacked > 1


def shape_gradients(parameters: Iterable[nn.Parameter], recipe: Recipe, stacked: bool = False) -> None:
    """Add the gradient of the L1 penalty, then clip by the recipe's ``clip_norm`` or ``clip_value``.

    The penalty is ``l1 * sum |w|`` over what weight decay holds; its gradient is ``l1 * sign(w)``, 0 at 0. A gradient
    ``g`` of all parameters becomes ``g * min(1, clip_norm / ||g||)``, or is cut to ``-clip_value .. clip_value``.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    if recipe.l1:
        for parameter in trained:
            if recipe.decay_all or is_matrix(parameter, stacked):
                parameter.grad.add_(parameter.detach().sign(), alpha=recipe.l1)  # type: ignore[union-attr]
    if recipe.clip_norm is not None and stacked:
        clip_members(trained, recipe.clip_norm)
    elif recipe.clip_norm is not None:
        nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
    if recipe.clip_value is not None:
        nn.utils.clip_grad_value_(trained, recipe.clip_value)


def clip_members(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale each stacked member's gradients down to a norm of ``largest``, as ``clip_grad_norm_`` does for one."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    factors = (largest / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *(1,) * (gradient.ndim - 1)))


@torch.no_grad()
def limit_norms(parameters: Iterable[nn.Parameter], largest: float | None, stacked: bool = False) -> None:
    """Scale the weights that lead into a unit down to an L2 norm of ``largest``, to rounding; ``None`` does nothing.

    Of a linear weight ``[out, in]`` a unit's weights are a row, of a convolution's ``[out, in / groups, *kernel]`` a
    filter: the norm goes over all axes but the first. Biases are free (Srivastava et al., 2014).
    """
    if largest is None:
        return
    for parameter in parameters:
        if parameter.requires_grad and is_matrix(parameter, stacked):
            weight: Tensor = parameter.view(-1, *parameter.shape[2:]) if stacked else parameter
            weight.renorm_(2, 0, largest)


def check_max_norm(model: nn.Module) -> None:
    """Refuse layers whose weights have a unit on another axis than the first.

    Raises:
        ValueError: one is a transposed convolution or an embedding.
    """
    for name, module in model.named_modules():
        if isinstance(module, (_ConvTransposeNd, nn.Embedding, nn.EmbeddingBag)):
            raise ValueError(
                f"max_norm does not know the units of layer {name} ({type(module).__name__}): set max_norm=null"
            )
