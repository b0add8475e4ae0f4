"""What a config says about how a tensor is drawn: a scheme with its options, a number, a sum or a product of these."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seedvote.errors import unknown
from seedvote.initialization import schemes
from seedvote.initialization.fourier import convolution_aware

Scheme = Callable[[nn.Module, str, Tensor, torch.Generator], object]

# For tensors of any shape, biases and norm parameters among them.
FOR_ANY_SHAPE: dict[str, Callable[..., None]] = {
    "default": schemes.own,
    "constant": schemes.constant,
    "normal": schemes.normal,
    "uniform": schemes.uniform,
}
# For weights, which have inputs and outputs.
FOR_WEIGHTS: dict[str, Callable[..., None]] = {
    "convolution_aware": convolution_aware,
    "identity": schemes.identity,
    "kaiming_normal": schemes.kaiming_normal,
    "kaiming_uniform": schemes.kaiming_uniform,
    "lecun_normal": schemes.lecun_normal,
    "lecun_uniform": schemes.lecun_uniform,
    "orthogonal": schemes.orthogonal,
    "scaled_normal": schemes.scaled_normal,
    "sparse": schemes.sparse,
    "xavier_normal": schemes.xavier_normal,
    "xavier_uniform": schemes.xavier_uniform,
}
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"add": operator.add, "mul": operator.mul}
KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "float": ("a finite number", (int, float)),
    "int": ("a whole number", (int,)),
    "str": ("a word", (str,)),
}


@dataclass(frozen=True)
class Draw:
    """Fills a tensor in place.

    where: the place in the config that asked for it, for errors. any_shape: False if it takes weights alone.
    """

    scheme: Scheme
    where: str
    any_shape: bool

    @torch.no_grad()
    def fill(self, module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """Draw a tensor, or a part of one.

        Raises:
            ValueError: the scheme cannot be used on this tensor.
        """
        drawn = tensor.detach().clone(memory_format=torch.contiguous_format)
        try:
            self.scheme(module, name, drawn, generator)
        except ValueError as error:
            raise ValueError(f"{self.where} cannot draw {name}: {error}") from error
        tensor.copy_(drawn)


def draw_of(spec: object, where: str) -> Draw:
    """Read a draw: a number, a scheme's name, ``{scheme: NAME, OPTION: ...}``, ``{add: [...]}``, ``{mul: [...]}``.

    A callable, in place of a name or by itself, is a user's own scheme.

    Raises:
        ValueError: it is none of these, or an option is not the scheme's.
    """
    if _is_number(spec):
        return draw_of({"scheme": "constant", "value": spec}, where)
    if isinstance(spec, str) or callable(spec):
        return draw_of({"scheme": spec}, where)
    chosen = [key for key in ("scheme", *OPERATIONS) if isinstance(spec, Mapping) and key in spec]
    if not isinstance(spec, Mapping) or len(chosen) != 1:
        raise ValueError(f"{where} wants one of scheme, _target_, add or mul, got {spec!r}")
    kind, options = chosen[0], {key: value for key, value in spec.items() if key != chosen[0]}
    if kind == "scheme":
        return _named(spec["scheme"], options, where)
    if options:
        raise ValueError(f"{where} has {kind} and {', '.join(map(str, options))}: options belong to a scheme in {kind}")
    return _combined(kind, spec[kind], where)


def _named(scheme: object, options: Mapping[str, Any], where: str) -> Draw:
    if callable(scheme):
        return Draw(_of_the_user(scheme, options, where), where, any_shape=True)
    known = {**FOR_ANY_SHAPE, **FOR_WEIGHTS}
    if not isinstance(scheme, str) or scheme not in known:
        raise ValueError(unknown(f"scheme of {where}", scheme, known))
    _check_options(known[scheme], options, f"{where}, scheme {scheme}")
    return Draw(functools.partial(known[scheme], **options), where, scheme in FOR_ANY_SHAPE)


def _combined(kind: str, specs: object, where: str) -> Draw:
    if not isinstance(specs, Sequence) or isinstance(specs, str) or len(specs) < 2:
        raise ValueError(f"{where}.{kind} wants a list of at least two schemes or numbers, got {specs!r}")
    draws = [draw_of(spec, f"{where}.{kind}[{place}]") for place, spec in enumerate(specs)]

    def combined(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        terms = [tensor.clone() for _ in draws]
        for draw, term in zip(draws, terms, strict=True):
            draw.fill(module, name, term, generator)
        tensor.copy_(functools.reduce(OPERATIONS[kind], terms))

    return Draw(combined, where, all(draw.any_shape for draw in draws))


def _of_the_user(function: Callable[..., object], options: Mapping[str, Any], where: str) -> Scheme:
    bound = functools.partial(function, **options)
    called = getattr(function, "func", function)
    title = f"{called.__module__}.{getattr(called, '__qualname__', type(called).__qualname__)}"
    try:
        inspect.signature(bound).bind(None, "", None, None)
    except TypeError as error:
        raise ValueError(
            f"{where}: {title} must take (module, name, tensor, generator) and its options: {error}"
        ) from error

    def checked(module: nn.Module, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        result = bound(module, name, tensor, generator)
        if isinstance(result, Tensor) and result.data_ptr() != tensor.data_ptr():
            raise ValueError(f"{title} returned a tensor of its own: it must fill the one it is given, in place")

    return checked


def _check_options(scheme: Callable[..., None], options: Mapping[str, Any], where: str) -> None:
    parameters = inspect.signature(scheme).parameters
    known = {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    for name, value in options.items():
        if name not in known:
            raise ValueError(unknown(f"option of {where}:", name, known) if known else f"{where} has no option {name}")
        wanted, kinds = KINDS[known[name].annotation]
        if (
            not isinstance(value, kinds)
            or isinstance(value, bool)
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            raise ValueError(f"{where}: {name} must be {wanted}, got {value!r}")
    missing = [
        name for name, parameter in known.items() if parameter.default is parameter.empty and name not in options
    ]
    if missing:
        raise ValueError(f"{where} needs {' and '.join(missing)}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
