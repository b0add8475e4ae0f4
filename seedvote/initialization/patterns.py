"""Patterns that say which parameters of a network are meant."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from seedvote.errors import listed, unknown


def is_matched(pattern: str, module: nn.Module, name: str) -> bool:
    """Say whether a pattern is for a parameter, by its name or by the class of the module that owns it."""
    own = name.rpartition(".")[2]
    classes = [kind.__name__ for kind in type(module).__mro__[: type(module).__mro__.index(nn.Module)]]
    names = [name, *classes, *(f"{kind}.{own}" for kind in classes)]
    return any(fnmatchcase(candidate, pattern) for candidate in names)


def no_match(where: str, pattern: str, named: Sequence[tuple[nn.Module, str]]) -> str:
    """Return the sentence for a pattern that is for none of a network's parameters."""
    names = [name for _, name in named]
    classes = list(dict.fromkeys(type(module).__name__ for module, _ in named))
    sentence = unknown(f"{where} matches nothing:", pattern, names + classes)
    if len(names + classes) > 20:
        sentence += f"; there are {listed(names)}, of {listed(classes)}"
    return sentence
