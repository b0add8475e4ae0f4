"""Train one recipe from many seeds, let the members vote, and say honestly what the vote is worth.

import seedvote

ensemble = seedvote.load("checkpoints/digits-mlp-3f9a1c")
ensemble.predict(images, vote="soft").labels
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seedvote.version import __version__

if TYPE_CHECKING:
    from seedvote.inference import Ensemble, load
    from seedvote.voting import Vote

__all__ = ["Ensemble", "Vote", "__version__", "load"]

_HOMES = {"Ensemble": "seedvote.inference", "Vote": "seedvote.voting", "load": "seedvote.inference"}


def __getattr__(name: str) -> Any:
    # torch is imported on first use, so that the help of `python -m seedvote.train` does not wait for it.
    if name not in _HOMES:
        raise AttributeError(f"module 'seedvote' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
