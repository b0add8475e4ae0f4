"""How a ``_target_`` of a config becomes a callable, and which ones a stranger's run may name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from seedvote.errors import unknown

# What a run directory may name without the user's consent, as a part of its recipe.
DATA_SOURCES = ("arrays", "digits", "image_folder", "torchvision_dataset")
NETWORK_PACKAGES = ("seedvote.models", "torch.nn", "torchvision.models")
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
        reason = (str(root) or type(root).__name__).splitlines()[0]
        raise ValueError(f"{where}._target_={spec['_target_']} cannot be used: {reason}") from error
    except Exception as error:  # of keys that Hydra knows, such as _recursive_, with values that it does not
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{where} cannot be used: {reason}") from error
    assert isinstance(bound, functools.partial)
    _check_options(bound.func, bound.keywords, str(spec["_target_"]), where)
    return bound


def called(spec: Mapping[str, Any], where: str) -> Any:
    """Call what ``_target_`` names with its options and nothing else.

    Raises:
        ValueError: it cannot be imported, has no such option, or lacks one.
    """
    bound = bound_target(spec, where)
    given = {*bound.keywords, *list(_parameters(bound.func))[: len(bound.args)]}
    for name, parameter in _parameters(bound.func).items():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if needed and name not in given:
            raise ValueError(f"{spec['_target_']} needs the option {name}: add {where}.{name}=...")
    return bound()


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions in C do not say
        return {"options": inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)}


def _check_options(function: Callable[..., Any], options: Mapping[str, Any], target: str, where: str) -> None:
    """Refuse options that a function has not; hold those of seedvote's own to their annotations.

    So that it is known before anything is computed or written.

    Raises:
        ValueError: one is unknown, or of another type.
    """
    parameters = _parameters(function)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                raise ValueError(unknown(f"option of {target}", f"{where}.{option}", parameters))
    annotated: Any = function.__init__ if inspect.isclass(function) else function
    if not str(getattr(annotated, "__module__", "")).startswith("seedvote."):
        return
    try:
        hints = get_type_hints(annotated)
    except NameError:  # a name that is imported for the type checker alone
        return
    for option, value in options.items():
        if option in hints and not _fits(value, hints[option]):
            wanted = str(getattr(hints[option], "__name__", hints[option])).replace("collections.abc.", "")
            raise ValueError(f"{where}.{option} must be {wanted}, got {str(value)[:200]!r}")


def _fits(value: object, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return True  # lists and the like are checked where they are used


def scheduler_builder(spec: Mapping[str, Any]) -> functools.partial[Any]:
    """Return what builds a schedule from the optimizer and the total number of steps.

    A function gets both. A class, such as torch's, gets the number only if it has an option ``total_steps``.

    Raises:
        ValueError: it cannot be imported, has no such option, or ``total_steps`` is given.
    """
    bound = bound_target({key: value for key, value in spec.items() if key != "interval"}, "scheduler")
    if "total_steps" in bound.keywords:
        raise ValueError("scheduler.total_steps follows from epochs, batch_size and the data: leave it out")
    if not inspect.isclass(bound.func):
        return bound
    return functools.partial(_scheduler, bound, "total_steps" in _parameters(bound.func))


def _scheduler(build: Callable[..., Any], counts: bool, optimizer: Any, total_steps: int) -> Any:
    return build(optimizer, total_steps=total_steps) if counts else build(optimizer)


def model_builder(spec: Mapping[str, Any], input_shape: Sequence[int], n_classes: int) -> Callable[[], Any]:
    """Return what builds the network; ``input_shape`` and ``n_classes`` are passed to targets that take them."""
    bound = bound_target(spec, "model")
    facts = {"input_shape": tuple(input_shape), "n_classes": n_classes}
    wanted = _parameters(bound.func)
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
    _check_options(function, options, str(spec["_target_"]), "init")
    parameters = _parameters(function)
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


def check_trusted(spec: Mapping[str, Any], run: str, part: str) -> None:
    """Refuse code that the recipe of a run directory names and that is not what belongs into that part of it.

    part: ``data``, which may name the sources of ``seedvote.data`` and nothing inside their options; or ``model``,
    which may name networks of seedvote, torch.nn and torchvision, also as options of others.

    Raises:
        ValueError: a ``_target_`` leads elsewhere, or a value asks OmegaConf to look something up.
    """
    allowed = _is_data_source if part == "data" else _is_network
    pending: list[tuple[Any, bool]] = [(spec, True)]
    while pending:
        value, outermost = pending.pop()
        if isinstance(value, Mapping):
            pending += [(item, False) for item in value.values()]
            if "_target_" in value and not (allowed(value["_target_"]) and (outermost or part == "model")):
                raise ValueError(
                    f"run {run!r} names code outside seedvote, torch.nn and torchvision.models as its {part}: "
                    f"{str(value['_target_'])[:200]}; loading it would run that code, so add trust=true only if you "
                    "know it"
                )
        elif isinstance(value, (list, tuple)):
            pending += [(item, False) for item in value]
        elif isinstance(value, str) and "${" in value:
            raise ValueError(f"run {run!r} holds the interpolation {value[:200]!r}, which no recipe of seedvote has")


def _is_data_source(target: object) -> bool:
    found = _found(target, ("seedvote.data",))
    return inspect.isfunction(found) and found.__qualname__ in DATA_SOURCES


def _is_network(target: object) -> bool:
    """Say whether a name leads to a network or to a function that builds one.

    Not to any function: ``torch.nn.functional.torch.hub.load`` begins well and ends badly, and methods of the weights
    of torchvision's networks download and unpickle what they are told to.
    """
    found = _found(target, NETWORK_PACKAGES)
    if found is None:
        return False
    # Not earlier: help and wrong command lines shall answer at once.
    import torchvision
    from torch import nn

    if inspect.isclass(found):
        return issubclass(found, nn.Module)
    if not inspect.isfunction(found) or found.__qualname__.startswith("_"):
        return False
    if found.__module__.startswith("seedvote.models."):
        return found.__qualname__.isidentifier()
    name = found.__name__
    builders = torchvision.models.list_models(module=torchvision.models)
    return name in builders and torchvision.models.get_model_builder(name) is found


def _found(target: object, packages: tuple[str, ...]) -> Any:
    """Return what a name in one of the packages leads to if it was defined there too, else ``None``."""

    def inside(name: str) -> bool:
        return any(name == package or name.startswith(package + ".") for package in packages)

    if not isinstance(target, str) or not inside(target):
        return None
    try:
        found = bound_target({"_target_": target}, "recipe").func
    except ValueError:
        return None
    return found if inside(str(getattr(found, "__module__", ""))) else None
