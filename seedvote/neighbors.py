"""A k-nearest-neighbour head: classes by the training samples that lie nearest in a network's penultimate layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

CANDIDATES = (1, 3, 5, 9, 17, 33, 65)

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbors:
    """Training features ``[N, F]`` that can be searched, with their labels ``[N]``; k: how many neighbours count."""

    index: NearestNeighbors
    labels: Labels
    classes: int
    k: int

    def log_probabilities(self, features: Features) -> NDArray[np.float32]:
        """Return ``log((n_c + 1/C) / (k + 1))`` ``[S, C]``, where ``n_c`` of the k nearest are of class ``c``.

        One neighbour more is spread evenly over the C classes, so that none is impossible. Samples whose features
        ``[S, F]`` are not finite get NaN.
        """
        sound = np.isfinite(features).all(1)
        found = np.full((len(features), self.classes), np.nan, np.float32)
        if sound.any():
            nearest = self.labels[self.index.kneighbors(features[sound], self.k, return_distance=False)]
            found[sound] = _log_probabilities(nearest, self.k, self.classes)
        return found


def features_of(network: nn.Module, batches: Iterable[Tensor]) -> Features:
    """Return what the last linear layer of a network gets, ``[S, F]``, for batches ``[B, ...]``.

    Raises:
        ValueError: the network's logits are not what a linear layer returns.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...], returned: Tensor) -> None:
        calls.append((given[0], returned))

    features = []
    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, nn.Linear)]
    try:
        for batch in batches:
            calls.clear()
            logits = network(batch)
            if not calls or calls[-1][1] is not logits:
                raise ValueError("head=knn wants a network that ends with a linear layer: leave it out for this one")
            features.append(calls[-1][0].flatten(1).float().cpu().numpy())
    finally:
        for hook in hooks:
            hook.remove()
    return np.concatenate(features)


def fitted_neighbors(
    train: tuple[Features, Labels], validation: tuple[Features, Labels], classes: int
) -> Neighbors | None:
    """Choose k of ``CANDIDATES`` by the lowest mean negative log-likelihood on validation; the smaller if two tie.

    train, validation: penultimate features ``[N, F]`` and labels ``[N]``. Distances are Euclidean. Returns ``None``
    where features are not finite.
    """
    if not (np.isfinite(train[0]).all() and np.isfinite(validation[0]).all()):
        return None
    from sklearn.neighbors import NearestNeighbors  # takes a second, which no prediction without this head shall wait

    # Brute force: trees save nothing in so many dimensions, and which of two equally near comes first shall not depend
    # on how they were built.
    index = NearestNeighbors(algorithm="brute").fit(train[0])
    possible = [k for k in CANDIDATES if k <= len(train[1])]
    nearest = train[1][index.kneighbors(validation[0], possible[-1], return_distance=False)]
    rows = np.arange(len(validation[1]))
    losses = [-_log_probabilities(nearest, k, classes)[rows, validation[1]].mean() for k in possible]
    return Neighbors(index, train[1], classes, possible[int(np.argmin(losses))])


def _log_probabilities(nearest: Labels, k: int, classes: int) -> NDArray[np.float64]:
    """nearest: labels ``[S, at least k]`` of the nearest, nearest first."""
    counts = (nearest[:, :k, None] == np.arange(classes)).sum(1)
    result: NDArray[np.float64] = np.log((counts + 1 / classes) / (k + 1))
    return result
