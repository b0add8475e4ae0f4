"""Rules that say how each parameter of a network is drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seedvote.initialization.draws import Draw, draw_of
from seedvote.initialization.patterns import is_matched, no_match
from seedvote.initialization.whole import is_bias, owners

LEFT = draw_of("default", "bias")


@dataclass(frozen=True)
class Rule:
    """One rule, read.

    match: a pattern for parameters. draw: for what it matches. bias: for biases among that. part: which part, as
    ``slices`` reads it, or ``None`` for the whole.
    """

    where: str
    match: str
    draw: Draw
    bias: Draw
    part: str | None

    def matches(self, module: nn.Module, name: str) -> bool:
        """Say whether the rule is for a parameter, by its name or by the class of the module that owns it."""
        return is_matched(self.match, module, name)

    @torch.no_grad()
    def fill(self, module: nn.Module, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Draw a parameter, or the rule's part of it.

        Raises:
            ValueError: the scheme cannot be used on it, or it has no such part.
        """
        tensor = parameter
        if self.part is not None:
            try:
                tensor = parameter[slices(self.part, parameter.shape)]
            except ValueError as error:
                raise ValueError(f"{self.where}.part={self.part} of {name}: {error}") from error
        draw = self.bias if is_bias(name, parameter) else self.draw
        if parameter.ndim < 2 and not draw.any_shape:
            raise ValueError(
                f"{self.where} matches {name} {list(parameter.shape)}, which has no inputs and outputs: match "
                "weights alone, such as 'Linear' or 'Conv2d', or put "
                f"{{match: {type(module).__name__}, scheme: default}} before it"
            )
        draw.fill(module, name, tensor, generator)


def by_rules(model: nn.Module, generator: torch.Generator, *, rules: Sequence[Mapping[str, Any]]) -> None:
    """Draw each parameter as the first rule says that matches it; what no rule matches stays as it was.

    A rule is ``{match: PATTERN, scheme: NAME, OPTION: ...}``, with ``add`` or ``mul`` in place of ``scheme`` where
    schemes are composed (``draws.draw_of``), and optionally

    part: a part of the tensor, drawn as if it were a tensor of its own (see ``slices``); later rules draw the rest.
    bias: what the biases become that the pattern matches; ``None`` leaves them. Without it they are drawn by the
    rule's scheme if that takes vectors, and are 0 otherwise.

    Raises:
        ValueError: with one line for each rule that is wrong, matches nothing, or matches only what others have taken.
    """
    read = _read(rules)
    named = [(module, name, parameter) for module, own in owners(model) for name, parameter in own.items()]
    used: set[str] = set()
    for module, name, parameter in named:
        matching = [rule for rule in read if rule.matches(module, name)]
        whole = next((place for place, rule in enumerate(matching) if rule.part is None), len(matching))
        # The last first, so that what the first rule draws lies on top.
        for rule in reversed(matching[: whole + 1]):
            rule.fill(module, name, parameter, generator)
            used.add(rule.where)
    problems = [_no_match(rule, named) for rule in read if rule.where not in used]
    if problems:
        raise ValueError("\n".join(problems))


def slices(part: str, shape: Sequence[int]) -> tuple[slice, ...]:
    """Turn the name of a part into slices.

    ``2/4`` is the second of four equal parts along the first axis; ``0:16`` and ``0:16, :, 1`` are Python's slices,
    axis by axis, except that a number keeps its axis.

    Raises:
        ValueError: it is neither, or reaches beyond the tensor.
    """
    if not shape:
        raise ValueError("a single number has no parts")
    fraction = re.fullmatch(r"(\d+)/(\d+)", part.strip())
    if fraction:
        place, count = (int(number) for number in fraction.groups())
        if not 1 <= place <= count or shape[0] % count:
            raise ValueError(f"the first axis of {list(shape)} has no part {place} of {count} equal ones")
        size = shape[0] // count
        return (slice((place - 1) * size, place * size),)
    texts = [text.strip() for text in part.split(",")]
    if len(texts) > len(shape):
        raise ValueError(f"{list(shape)} has only {len(shape)} axes")
    return tuple(_slice(text, size) for text, size in zip(texts, shape, strict=False))


def _slice(text: str, size: int) -> slice:
    if re.fullmatch(r"-?\d+", text):
        start = int(text)
        bounds = [start, start + 1 or size, 1]
    elif re.fullmatch(r"(-?\d+)?:(-?\d+)?(:[1-9]\d*)?", text):
        parts: list[int | None] = [int(number) if number else None for number in text.split(":")]
        step = parts[2] if len(parts) == 3 else 1
        bounds = [parts[0] or 0, size if parts[1] is None else parts[1], step or 1]
    else:
        raise ValueError(f"{text!r} is no slice: wanted one such as 2/4 or '0:16', in quotes")
    start, stop = (bound + size if bound < 0 else bound for bound in bounds[:2])
    if not 0 <= start < stop <= size:
        raise ValueError(f"{text!r} is empty or reaches beyond an axis of {size}")
    return slice(start, stop, bounds[2])


def _read(rules: Sequence[Mapping[str, Any]]) -> list[Rule]:
    if not isinstance(rules, Sequence) or isinstance(rules, str) or not rules:
        raise ValueError(f"init.rules must be a list of at least one rule {{match: ..., scheme: ...}}, got {rules!r}")
    read, problems = [], []
    for place, spec in enumerate(rules):
        try:
            read.append(_rule(spec, f"init.rules[{place}]"))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return read


def _rule(spec: Mapping[str, Any], where: str) -> Rule:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("match"), str):
        raise ValueError(f"{where} needs a match, such as '*.weight', 'conv1.*' or 'Conv2d', got {spec!r}")
    part = spec.get("part")
    if part is not None and not isinstance(part, str):
        raise ValueError(
            f"{where}.part must be text such as 2/4 or '0:16' (in quotes, or YAML makes it a number), got {part!r}"
        )
    draw = draw_of({key: value for key, value in spec.items() if key not in ("match", "part", "bias")}, where)
    if "bias" not in spec:
        bias = draw if draw.any_shape else draw_of(0, f"{where}.bias")
    else:
        bias = LEFT if spec["bias"] is None else draw_of(spec["bias"], f"{where}.bias")
    return Rule(where, spec["match"], draw, bias, part)


def _no_match(rule: Rule, named: Sequence[tuple[nn.Module, str, Tensor]]) -> str:
    if any(rule.matches(module, name) for module, name, _ in named):
        return f"{rule.where}: earlier rules have taken all that {rule.match!r} matches: put it first or leave it out"
    return no_match(rule.where, rule.match, [(module, name) for module, name, _ in named])
