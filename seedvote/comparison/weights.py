"""Stacking weights of very many committees, for which the vote's own way to fit them would take too long."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from seedvote import voting
from seedvote.chunks import log_probabilities
from seedvote.comparison.alone import Alone

_GAP = 1e-5  # nats for each sample
_ITERATIONS = 100
_SMALLEST = 1e-300

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def stacked_weights(validation: Alone, weights: Floats) -> Callable[[Integers], Floats]:
    """Return what gives the members of a committee their weights: fitted on validation to these members alone.

    weights: of all members together, ``[M]``. The same committee is fitted once.
    """
    samples, targets = np.arange(len(validation.targets)), validation.targets
    logs = np.stack([log_probabilities(member.astype(np.float64))[samples, targets] for member in validation.logits])
    known = {tuple(range(len(weights))): weights}

    def fitted(chosen: Integers) -> Floats:
        members = tuple(chosen.tolist())
        if members not in known:
            known[members] = likeliest_weights(logs[chosen])
        return known[members]

    return fitted


def likeliest_weights(log_likelihoods: Floats) -> Floats:
    """``voting.likeliest_mixture`` by sequential quadratic programming (Kraft 1988), in fewer steps.

    ``w = argmax over the simplex of mean_s log(sum_m w_m p_ms)``, to within 1e-5 nats: ``max_m g_m - 1`` with
    ``g_m = mean_s p_ms / sum_k w_k p_ks`` bounds what is still to be gained. Where that is not reached, the slow way is
    gone. log_likelihoods: ``[M, S]``.
    """
    members, best = len(log_likelihoods), log_likelihoods.max(axis=0)
    possible = best > -np.inf
    if members == 1 or not possible.any():
        return np.full(members, 1 / members)
    likelihoods = np.exp(log_likelihoods[:, possible] - best[possible])

    def loss(weights: Floats) -> tuple[float, Floats]:
        mixture = np.maximum(weights @ likelihoods, _SMALLEST)
        return -float(np.log(mixture).mean()), -(likelihoods @ (1 / mixture)) / len(mixture)

    found = minimize(
        loss, np.full(members, 1 / members), jac=True, method="SLSQP", bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": _GAP / 100, "maxiter": _ITERATIONS},
    )  # fmt: skip
    weights = np.clip(found.x, 0, None)
    weights /= weights.sum() or 1
    gains = -loss(weights)[1]
    return weights if gains.max() - 1 <= _GAP else voting.likeliest_mixture(log_likelihoods)
