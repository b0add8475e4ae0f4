"""What values a command line may hold at most, and what in them no schema sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

LARGEST = 2**63 - 1  # what every format and library can hold
MOST_SEEDS = 1_000_000
MOST_THREADS = 4096
MOST_FEATURES = 8192  # numbers a sample of which a covariance is taken: 256 MiB in float32


def wrong_elements(config: object, kind: type) -> list[str]:
    """Say which lists of a config hold something of another kind than its class is annotated with."""
    problems = []
    for key, hint in get_type_hints(kind).items():
        for part in (hint, *get_args(hint)):
            values = getattr(config, key)
            if get_origin(part) is list and isinstance(values, list):
                (wanted,) = get_args(part)
                odd = [value for value in values if not isinstance(value, wanted) or isinstance(value, bool)]
                word = "whole numbers" if wanted is int else "names"
                problems += [f"{key} must be a list of {word}, got {odd[0]!r} in it"] if odd else []
    return problems


def is_number(value: object, kind: type) -> bool:
    """Say whether a value is a number, whole or of a kind, and not a truth value."""
    return isinstance(value, (int, kind)) and not isinstance(value, bool)


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every value in nested dicts and lists with its dotted name."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{name}.{key}")
    else:
        yield name, value


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return what nested dicts hold, by dotted name; a list is one value."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        dotted: leaf
        for key, item in value.items()
        for dotted, leaf in flat(item, f"{name}.{key}" if name else key).items()
    }


def directory_problems(key: str, value: str | None) -> list[str]:
    """Say why a directory cannot be made where it is wanted, as far as can be told without trying."""
    if value is None:
        return []
    if not value.strip() or "\0" in value:
        return [f"{key} must name a directory, got {value!r}"]
    path = Path(value).absolute()
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if there.is_dir():
        return []
    return [f"{key}={value} cannot be a directory: {there} is something else"]
