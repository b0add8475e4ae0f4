"""How weights and gradients are spread, small enough to travel between processes after each epoch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from seedvote.types import Histogram

INTERVALS = 64
LARGEST = 1e150  # what is beyond counts as not finite: its square would not be


def histograms(tensors: Mapping[str, Tensor]) -> dict[str, Histogram]:
    """Return a histogram of each tensor's finite numbers, by name; of those that have any."""
    found = {name: _histogram(tensor) for name, tensor in tensors.items()}
    return {name: histogram for name, histogram in found.items() if histogram is not None}


def _histogram(tensor: Tensor) -> Histogram | None:
    values = tensor.detach().cpu().double().numpy().ravel()
    values = values[np.abs(values) < LARGEST]
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    largest = max(abs(low), abs(high))
    if high - low <= 1e-9 * largest or largest < 1e-300:  # too little between them for so many intervals
        low, high = low - 0.5 * max(1.0, largest), high + 0.5 * max(1.0, largest)
    counts, edges = np.histogram(values, INTERVALS, (low, high))
    squares = float(np.square(values).sum())
    return Histogram(values.size, float(values.sum()), squares, tuple(edges.tolist()), tuple(counts.tolist()))
