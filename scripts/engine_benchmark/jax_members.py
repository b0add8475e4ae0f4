"""MLPs in JAX: one member's epoch under ``vmap`` and ``jit``, its steps in a ``scan``.

First weights are drawn as torch's linear layers draw theirs; each member has its own data order and dropout. Sizes,
dropout and the optimizer's numbers are read from seedvote's own configs.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from omegaconf import OmegaConf

from engine_benchmark.cases import Case
from engine_benchmark.contestants import Clock, StepMark
from seedvote.config import CONF_DIR

MLP: Any = OmegaConf.load(Path(CONF_DIR) / "model" / "mlp.yaml")
Layers = list[tuple[Any, Any]]


def train_by_jax(seeds: list[int], case: Case, splits: dict[str, np.ndarray], clock: Clock) -> dict[int, Any]:
    """Train all members at once; one call of the compiled function is an epoch of all, validation included."""
    mark = clock.start()
    inputs = jnp.asarray(splits["train_inputs"].reshape(len(splits["train_inputs"]), -1))
    labels = jnp.asarray(splits["train_labels"])
    held_out = jnp.asarray(splits["validation_inputs"].reshape(len(splits["validation_inputs"]), -1))
    held_out_labels = jnp.asarray(splits["validation_labels"])
    steps = -(-len(inputs) // case.batch_size)
    optimizer = optimizer_of(case, steps)
    sizes = (inputs.shape[1], *MLP.hidden, int(splits["classes"]))
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])

    def loss(layers: Layers, chosen: Any, key: Any) -> Any:
        logits = _logits(layers, inputs[chosen], key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

    def step(carried: Any, batch: Any) -> Any:
        layers, state = carried
        value, gradients = jax.value_and_grad(loss)(layers, *batch)
        updates, state = optimizer.update(gradients, state, layers)
        return (optax.apply_updates(layers, updates), state), value

    def epoch(layers: Layers, state: Any, key: Any) -> Any:
        order_key, dropout_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(inputs))
        dropout_keys = jax.random.split(dropout_key, steps)
        whole = len(inputs) // case.batch_size
        batches = order[: whole * case.batch_size].reshape(whole, case.batch_size)
        carried, losses = jax.lax.scan(step, (layers, state), (batches, dropout_keys[:whole]))
        if whole < steps:  # the last batch is smaller
            carried, last = step(carried, (order[whole * case.batch_size :], dropout_keys[-1]))
            losses = jnp.append(losses, last)
        logits = _logits(carried[0], held_out, None)
        validation_loss = optax.softmax_cross_entropy_with_integer_labels(logits, held_out_labels).mean()
        accuracy = (logits.argmax(1) == held_out_labels).mean()
        return carried, (losses.mean(), validation_loss, accuracy)

    layers = jax.jit(jax.vmap(lambda key: _first_weights(key, sizes)))(keys)
    state = jax.jit(jax.vmap(optimizer.init))(layers)
    began = time.monotonic()
    fold = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(0, None)))
    compiled = jax.jit(jax.vmap(epoch), donate_argnums=(0, 1)).lower(layers, state, fold(keys, 1)).compile()
    clock.compiling = time.monotonic() - began
    for number in range(1, case.epochs + 1):
        (layers, state), scores = compiled(layers, state, fold(keys, number))
        np.asarray(scores[0])
        _note(clock, mark, seeds)
    arrays = [tuple(np.asarray(part) for part in layer) for layer in layers]
    # The torch network is Flatten, then Linear, ReLU and Dropout for each hidden layer, then Linear.
    return {
        seed: {
            f"{1 + 3 * number}.{name}": np.ascontiguousarray(part[place])
            for number, layer in enumerate(arrays)
            for name, part in zip(("weight", "bias"), layer, strict=True)
        }
        for place, seed in enumerate(seeds)
    }


def _note(clock: Clock, mark: StepMark, seeds: list[int]) -> None:
    mark.step()  # no step can be told from the others of its epoch
    for seed in seeds:
        clock.epoch(seed)


def _first_weights(key: Any, sizes: tuple[int, ...]) -> Layers:
    layers = []
    for width, units in itertools.pairwise(sizes):
        key, weight_key, bias_key = jax.random.split(key, 3)
        bound = width**-0.5
        weight = jax.random.uniform(weight_key, (units, width), minval=-bound, maxval=bound)
        layers.append((weight, jax.random.uniform(bias_key, (units,), minval=-bound, maxval=bound)))
    return layers


def _logits(layers: Layers, inputs: Any, key: Any) -> Any:
    for number, (weight, bias) in enumerate(layers):
        inputs = inputs @ weight.T + bias
        if number + 1 < len(layers):
            inputs = jax.nn.relu(inputs)
            if key is not None:
                kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - MLP.dropout, inputs.shape)
                inputs = jnp.where(kept, inputs / (1 - MLP.dropout), 0)
    return inputs


def optimizer_of(case: Case, steps: int) -> Any:
    """Return the optimizer of a case in optax, its learning rate falling from epoch to epoch of so many steps."""
    numbers: Any = OmegaConf.load(Path(CONF_DIR) / "optimizer" / f"{case.optimizer}.yaml")

    def rate(count: Any) -> Any:
        """Half a cosine, in epochs."""
        return case.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * (count // steps) / case.epochs))

    if case.optimizer == "adamw":
        return optax.adamw(rate, *numbers.betas, weight_decay=numbers.weight_decay)
    descent = optax.sgd(rate, momentum=numbers.momentum, nesterov=numbers.nesterov)
    return optax.chain(optax.add_decayed_weights(numbers.weight_decay), descent)
