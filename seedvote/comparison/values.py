"""Records as values that JSON knows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Turn records, tuples and arrays into dicts, lists and numbers; fields marked as not written are left out.

    Raises ``AssertionError`` for NaN and infinity, which no comparison may hold.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [each for each in dataclasses.fields(value) if each.metadata.get("written", True)]
        return {each.name: plain(getattr(value, each.name)) for each in fields}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    assert not isinstance(value, float) or math.isfinite(value), "a comparison holds a number that is none"
    return value
