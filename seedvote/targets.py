"""How a ``_target_`` of a config becomes a callable, and which ones a stranger's run may name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from seedvote.errors import unknown

# What a run directory may name without the user's consent. Each is checked on the resolved object too.
TRUSTED = ("seedvote.data", "seedvote.models", "torch.nn", "torchvision.models")
# What a rule of `init` says besides how to draw; its other keys are the scheme's.
RULE_KEYS = ("match", "part", "bias")
# How many training inputs a user's init scheme gets that asks for `inputs` and does not say how many.
SAMPLES = 256


def bound_target(spec: Mapping[str, Any], where: str) -> functools.partial[Any]:
    """Import what ``_target_`` names and bind the other keys as its options.

    Raises:
        ValueError: it cannot be imported, or it has no such option.
    """
    try:
        bound = instantiate(dict(spec), _partial_=True, _convert_="all")
    except InstantiationException as error:
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        reason = str(root).splitlines()[0]
        raise ValueError(f"{where}._target_={spec['_target_']} cannot be used: {reason}") from error
    assert isinstance(bound, functools.partial)
    _refuse_unknown_options(bound.func, bound.keywords, str(spec["_target_"]), where)
    return bound


def model_builder(spec: Mapping[str, Any], input_shape: Sequence[int], n_classes: int) -> Callable[[], Any]:
    """Return what builds the network; ``input_shape`` and ``n_classes`` are passed to targets that take them."""
    bound = bound_target(spec, "model")
    facts = {"input_shape": tuple(input_shape), "n_classes": n_classes}
    wanted = inspect.signature(bound.func).parameters
    return functools.partial(bound, **{name: value for name, value in facts.items() if name in wanted})


def initializer(spec: Mapping[str, Any], training_inputs: Callable[[int], Any]) -> functools.partial[Any]:
    """Return what redraws a network's weights; schemes that take ``inputs`` get as many as their ``samples`` says.

    A ``_target_`` further inside, in a rule, is a scheme for one tensor: it is imported and bound, but not called. Such
    code is the user's own, named on the command line; no stored run's ``init`` is ever imported.

    Raises:
        ValueError: something in it cannot be imported, or has no such option.
    """
    function = bound_target({"_target_": spec["_target_"]}, "init").func
    options = {key: _with_schemes(value, f"init.{key}") for key, value in spec.items() if key != "_target_"}
    _refuse_unknown_options(function, options, str(spec["_target_"]), "init")
    parameters = inspect.signature(function).parameters
    if "inputs" in parameters:
        samples = parameters["samples"].default if "samples" in parameters else SAMPLES
        options["inputs"] = training_inputs(options.get("samples", samples))
    return functools.partial(function, **options)


def _with_schemes(value: Any, where: str) -> Any:
    """Put what ``_target_`` names in place of it, leaving a rule's own keys with the rule."""
    if isinstance(value, (list, tuple)):
        return [_with_schemes(item, f"{where}[{place}]") for place, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    inner = {key: _with_schemes(item, f"{where}.{key}") for key, item in value.items()}
    if "_target_" not in inner:
        return inner
    if "match" not in inner:
        return bound_target(inner, where)
    rule = {key: inner.pop(key) for key in RULE_KEYS if key in inner}
    return {**rule, "scheme": bound_target(inner, where)}


def _refuse_unknown_options(function: Callable[..., Any], options: Mapping[str, Any], target: str, where: str) -> None:
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                raise ValueError(unknown(f"option of {target}", f"{where}.{option}", parameters))


def check_trusted(spec: Mapping[str, Any], run: str) -> None:
    """Refuse code that a run directory names and that is neither seedvote's nor a network of torch.

    Raises:
        ValueError: a ``_target_`` leads elsewhere, or a value asks OmegaConf to look something up.
    """
    pending: list[Any] = [spec]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending.extend(value.values())
            if "_target_" in value and not _is_trusted(str(value["_target_"])):
                raise ValueError(
                    f"run {run!r} names code outside seedvote, torch.nn and torchvision.models: "
                    f"{value['_target_']}; loading it would run that code, so add trust=true only if you know it"
                )
        elif isinstance(value, (list, tuple)):
            pending.extend(value)
        elif isinstance(value, str) and "${" in value:
            raise ValueError(f"run {run!r} holds the interpolation {value!r}, which no recipe of seedvote has")


def _is_trusted(target: str) -> bool:
    def inside(name: str) -> bool:
        return any(name == package or name.startswith(package + ".") for package in TRUSTED)

    # The path alone is not enough: torch.nn.functional.torch.hub.load begins well and ends badly.
    if not inside(target):
        return False
    try:
        found = bound_target({"_target_": target}, "recipe").func
    except ValueError:
        return False
    return (inspect.isclass(found) or inspect.isfunction(found)) and inside(str(found.__module__))
