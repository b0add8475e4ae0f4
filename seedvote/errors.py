"""How seedvote words its errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def unknown(what: str, got: object, known: Iterable[str]) -> str:
    """Return the sentence for a name that is not known, with the spelling that was probably meant."""
    names = sorted(known)
    close = difflib.get_close_matches(str(got), names, n=1)
    meant = f": did you mean {close[0]!r}?" if close else ""
    if len(names) > 20:
        return f"{what} {str(got)!r} is not known{meant}"
    return f"{what} {str(got)!r} is not known{meant or ':'} there are {', '.join(names)}"


def listed(items: Iterable[object], limit: int = 8) -> str:
    """Return ``1, 2, 3`` or, where there are more than ``limit``, ``1, 2, 3 ... (40 in all)``."""
    texts = [str(item) for item in items]
    if len(texts) <= limit:
        return ", ".join(texts)
    return f"{', '.join(texts[:limit])} ... ({len(texts)} in all)"


class NotSaved(OSError):
    """The files of some members cannot be written, those of others can. seeds: of those that cannot."""

    def __init__(self, seeds: Sequence[int], error: OSError) -> None:
        """Say the same as the error of the first of them."""
        super().__init__(error.errno, error.strerror or str(error), error.filename)
        self.seeds = tuple(seeds)
