"""From configs and stored recipes to data sets and recipes made of callables."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seedvote.config import PREPARATION_KEYS, TrainConfig, chosen_seeds, location_of, recipe_of, short_name
from seedvote.data import network_inputs, normalized, prepare
from seedvote.initialization import initial_model
from seedvote.optimization import optimizer_state, parameter_groups
from seedvote.seeding import Streams
from seedvote.store import Run, RunRecord, recipe_hash, unsaveable
from seedvote.targets import bound_target, check_trusted, initializer, model_builder
from seedvote.types import Data, Recipe, Source
from seedvote.version import __version__


def load_data(recipe: Mapping[str, Any], location: Mapping[str, Any]) -> Data:
    """Load and split the data set that a recipe names, from where it lies.

    Raises:
        ValueError: the data is not there or cannot be used.
    """
    spec = {**recipe["data"], **location}
    preparation = {key: spec.pop(key, None) for key in PREPARATION_KEYS}
    source = bound_target(spec, "data")()
    if not isinstance(source, Source):
        raise ValueError(
            f"data._target_={spec['_target_']} must return a seedvote.types.Source, got {type(source).__name__}"
        )
    return prepare(source, split_seed=recipe["split_seed"], **preparation)


def stored_data(run: Run, moved: Mapping[str, Any], trust: bool) -> Data:
    """Load the data of a stored run again and make sure that it is the same.

    moved: keys of its location that are other today; ``None`` for those that are not. trust: import a data source of
    somebody else's.

    Raises:
        ValueError: it is not there, is not the same, or would run a stranger's code.
    """
    record = run.record
    if not trust:
        check_trusted(record.recipe["data"], run.name)
    location = {**record.location, **{key: value for key, value in moved.items() if value is not None}}
    data = load_data(record.recipe, location)
    if data.fingerprint != record.fingerprint:
        raise ValueError(
            f"the data of run {run.name!r} is not what it was trained on (looked at "
            f"{location.get('root') or location.get('file') or 'its own source'}): give the right place with "
            "data.root= or data.file="
        )
    return data


def build_recipe(recipe: Mapping[str, Any], data: Data) -> Recipe:
    """Turn a recipe of JSON values into callables, and check that the network takes the data.

    Raises:
        ValueError: something in it cannot be imported or does not fit the data.
    """
    built = Recipe(
        build_model=model_builder(recipe["model"], data.input_shape, len(data.classes)),
        initialize=initializer(recipe["init"], functools.partial(_training_inputs, data, recipe["split_seed"])),
        augment=bound_target(recipe["augment"], "augment"),
        build_optimizer=bound_target(recipe["optimizer"], "optimizer"),
        build_scheduler=bound_target(recipe["scheduler"], "scheduler"),
        epochs=recipe["epochs"],
        batch_size=recipe["batch_size"],
        label_smoothing=recipe["label_smoothing"],
        clip_norm=recipe["clip_norm"],
        decay_all=recipe["decay_all"],
        patience=recipe["patience"],
        vary=tuple(recipe["vary"]),
        shared_seed=recipe["shared_seed"],
    )
    _try_out(built, data)
    return built


def run_record(config: TrainConfig, data: Data, command: str) -> RunRecord:
    """Say everything about a run that is known before its first member is trained."""
    recipe = recipe_of(config)
    return RunRecord(
        recipe=recipe,
        recipe_hash=recipe_hash(recipe, data.fingerprint),
        fingerprint=data.fingerprint,
        location=location_of(config),
        classes=list(data.classes),
        input_shape=list(data.input_shape),
        input_dtype=str(data.train.inputs.dtype).removeprefix("torch."),
        mean=list(data.normalization.mean),
        std=list(data.normalization.std),
        counts={"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        sample=data.sample,
        seeds=sorted(chosen_seeds(config)),
        command=command,
        created=now(),
        commit=_commit(),
        versions=versions(),
    )


def run_name(record: RunRecord) -> str:
    """Return ``<data>-<model>-<short hash>``, the name of a run that was given none."""
    recipe = record.recipe
    return f"{short_name(recipe['data'])}-{short_name(recipe['model'])}-{record.recipe_hash[:6]}"


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    others = {name: version(name) for name in ("torch", "torchvision", "numpy")}
    return {"seedvote": __version__, "python": platform.python_version(), **others}


def _training_inputs(data: Data, split_seed: int, count: int) -> NDArray[np.float32]:
    """Return ``count`` normalised training inputs ``[S, ...]`` (or all there are), the same for all members.

    An array and contiguous, so that worker processes get it byte for byte.

    Raises:
        ValueError: ``count`` is no number of samples.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 2:
        raise ValueError(f"init.samples must be a whole number of at least 2, got {count!r}")
    order = np.random.default_rng(split_seed).permutation(len(data.train))
    chosen = data.train.inputs[torch.from_numpy(np.sort(order[:count]))]
    inputs: NDArray[np.float32] = normalized(chosen, data.normalization).contiguous().numpy()
    return inputs


def _try_out(recipe: Recipe, data: Data) -> None:
    """Take two samples through the network and one step of the optimizer, before anything is written."""
    streams = Streams(0, recipe.vary, recipe.shared_seed)
    inputs = network_inputs(data.train.inputs[:2], data.normalization)
    shape = list(inputs.shape)
    try:
        model = initial_model(recipe, streams)
        inputs = recipe.augment(inputs, streams.generator("augment", 0, 0))
        logits = model(inputs)
        optimizer = recipe.build_optimizer(parameter_groups(model.parameters(), recipe.decay_all))
        recipe.build_scheduler(optimizer, 10)
        logits.sum().backward()
        optimizer.step()
        odd = unsaveable(optimizer_state(optimizer, dict(model.named_parameters())))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"the recipe fails on two samples of shape {shape}: {type(error).__name__}: {error}"
        ) from error
    if odd:
        raise ValueError(f"the optimizer's state cannot be saved, for a crash to be survived: {odd}: choose another")
    if list(logits.shape) != [2, len(data.classes)]:
        raise ValueError(
            f"the model must return logits [B, {len(data.classes)}], one for each class, "
            f"got {list(logits.shape)} for a batch of 2"
        )


def _commit() -> str | None:
    """Return the git commit of the working directory, if it is under git."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
