"""From configs and stored recipes to data sets and recipes made of callables."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seedvote.config import (
    LOCATION_KEYS,
    NEUTRAL,
    NEUTRAL_DATA,
    PREPARATION_KEYS,
    chosen_seeds,
    location_of,
    recipe_of,
)
from seedvote.course import steps_an_epoch
from seedvote.data import fitted, normalized, prepare, preprocessed, training_inputs
from seedvote.errors import listed
from seedvote.events import Engine
from seedvote.initialization import initial_model
from seedvote.optimization import build_schedule, in_one_pass, optimizer_state, parameter_groups, try_schedule
from seedvote.provenance import code, hardware, versions
from seedvote.regularization import check_max_norm
from seedvote.schemas import TrainConfig
from seedvote.seeding import Streams
from seedvote.store import Run, RunRecord, read_preprocessing, read_run, recipe_hash, unsaveable, unusable
from seedvote.targets import bound_target, called, check_trusted, initializer, model_builder, scheduler_builder
from seedvote.types import Data, Preprocessing, Recipe, Source
from seedvote.variants import short_name, variants_of


def load_data(recipe: Mapping[str, Any], location: Mapping[str, Any]) -> Data:
    """Load and split the data set that a recipe names, from where it lies.

    Raises:
        ValueError: the data is not there or cannot be used.
    """
    spec = {**recipe["data"], **location}
    preparation = {key: spec.pop(key, None) for key in PREPARATION_KEYS}
    for key in NEUTRAL_DATA:  # for the training of members
        spec.pop(key, None)
    source = called(spec, "data")
    if not isinstance(source, Source):
        raise ValueError(
            f"data._target_={spec['_target_']} must return a seedvote.types.Source, got {type(source).__name__}"
        )
    return prepare(source, split_seed=recipe["split_seed"], **preparation)


def preprocessing_for(path: Path, record: RunRecord, data: Data) -> Preprocessing | None:
    """Return what follows normalisation: as it is stored in the run at ``path``, if it is there, else fitted anew.

    Another machine may round otherwise than the one that fitted it, and all members of a run shall see the same.

    Raises:
        ValueError: the stored one is damaged, or what the recipe names cannot be fitted or used on these data.
    """
    if os.path.lexists(path / "run.json"):
        run = read_run(path)
        if run.record.recipe_hash == record.recipe_hash:
            return read_preprocessing(run)
    found = fitted(bound_target({**NEUTRAL, **record.recipe}["preprocess"], "preprocess"), data)
    problem = unusable(found, data.input_shape) if found is not None else None
    if problem:
        raise ValueError(f"preprocess cannot be used on these data: {problem}")
    return found


def stored_data(run: Run, moved: Mapping[str, Any], trust: bool) -> Data:
    """Load the data of a stored run again and make sure that it is the same.

    moved: keys of its location that are other today; ``None`` for those that are not. trust: import a data source of
    somebody else's. Nothing is written where the run says: a cache is used only in a directory that is there, and
    downloads go only to a ``root`` that the user names.

    Raises:
        ValueError: it is not there, is not the same, or would run a stranger's code.
    """
    record = run.record
    named = {key: value for key, value in moved.items() if value is not None}
    location = {**_known_location(run), **named}
    if location.get("cache") is not None and not Path(location["cache"]).expanduser().is_dir():
        location["cache"] = None
    if "download" in location and "root" not in named:
        location["download"] = False
    recipe = {**record.recipe, "data": {**_without_location(record.recipe), **location}}
    if not trust:
        check_trusted(recipe["data"], run.name, "data")
    try:
        data = load_data(recipe, {})
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{run.path / 'run.json'} is damaged: its data cannot be loaded ({error!r})") from error
    if data.fingerprint != record.fingerprint:
        raise ValueError(
            f"the data of run {run.name!r} is not what it was trained on (looked at "
            f"{location.get('root') or location.get('file') or 'its own source'}): give the right place with "
            "data.root= or data.file="
        )
    return data


def build_recipe(recipe: Mapping[str, Any], data: Data) -> Recipe:
    """Turn a recipe of JSON values into callables, and check that its networks take the data.

    Raises:
        ValueError: something in it cannot be imported or does not fit the data.
    """
    variants = variants_of({**NEUTRAL, **recipe})
    if len(variants) == 1:
        return _build_variant(variants[0], data)
    built = []
    for number, variant in enumerate(variants, start=1):
        try:
            built.append(_build_variant(variant, data))
        except ValueError as error:
            raise ValueError(f"members, entry {number}: {error}") from error
    return dataclasses.replace(built[0], variants=tuple(built))


def _build_variant(recipe: Mapping[str, Any], data: Data) -> Recipe:
    augment = bound_target(recipe["augment"], "augment")
    built = Recipe(
        build_model=model_builder(recipe["model"], data.network_shape, len(data.classes)),
        initialize=initializer(recipe["init"], functools.partial(_training_inputs, data, recipe["split_seed"])),
        augment=augment,
        build_optimizer=in_one_pass(bound_target(recipe["optimizer"], "optimizer")),
        build_scheduler=scheduler_builder(recipe["scheduler"]),
        epochs=recipe["epochs"],
        batch_size=recipe["batch_size"],
        label_smoothing=recipe["label_smoothing"],
        clip_norm=recipe["clip_norm"],
        decay_all=recipe["decay_all"],
        patience=recipe["patience"],
        vary=tuple(recipe["vary"]),
        shared_seed=recipe["shared_seed"],
        interval=recipe["scheduler"].get("interval", "step"),
        clip_value=recipe["clip_value"],
        l1=recipe["l1"],
        max_norm=recipe["max_norm"],
        frozen=tuple(recipe["frozen"]),
        bootstrap=recipe["data"].get("bootstrap", NEUTRAL_DATA["bootstrap"]),
    )
    _try_out(built, data)
    # Hydra looks at what it has bound at each call, which takes longer than some training steps: once will do.
    return dataclasses.replace(built, augment=functools.partial(augment.func, *augment.args, **augment.keywords))


def build_engine(spec: Mapping[str, Any]) -> Engine:
    """Make the engine that a config names.

    Raises:
        ValueError: it is none, or its options are not right.
    """
    engine = called(spec, "engine")
    if not hasattr(engine, "name") or not callable(getattr(engine, "train", None)):
        raise ValueError(f"engine._target_={spec['_target_']} is no engine: choose one of those that -h lists")
    made: Engine = engine
    return made


def run_record(config: TrainConfig, data: Data, command: str) -> RunRecord:
    """Say everything about a run that is known before its first member is trained."""
    recipe, state = recipe_of(config), code()
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
        commit=state.commit,
        versions=versions(),
        dirty=state.dirty,
        diff=state.diff,
        hardware=hardware(),
    )


def run_name(record: RunRecord) -> str:
    """Return ``<data>-<model>-<short hash>``, the name of a run that was given none."""
    recipe = record.recipe
    models = {short_name(variant["model"]) for variant in variants_of(recipe)}
    model = models.pop() if len(models) == 1 else "mixed"
    return f"{short_name(recipe['data'])}-{model}-{record.recipe_hash[:6]}"


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _training_inputs(data: Data, split_seed: int, count: int) -> NDArray[np.float32]:
    """Return ``count`` preprocessed training inputs ``[S, ...]`` (or all there are), the same for all members.

    An array and contiguous, so that worker processes get it byte for byte.

    Raises:
        ValueError: ``count`` is no number of samples.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 2:
        raise ValueError(f"init.samples must be a whole number of at least 2, got {count!r}")
    order = np.random.default_rng(split_seed).permutation(len(data.train))
    chosen = data.train.inputs[torch.from_numpy(np.sort(order[:count]))]
    inputs = preprocessed(normalized(chosen, data.normalization), data.preprocessing)
    found: NDArray[np.float32] = inputs.contiguous().numpy()
    return found


def _known_location(run: Run) -> dict[str, Any]:
    """Return where a run says that its data lay; the recipe's hash does not cover that.

    Raises:
        ValueError: it says something else.
    """
    location = run.record.location
    kinds = {"root": str, "file": str, "cache": str, "download": bool, "workers": int}
    assert set(kinds) == set(LOCATION_KEYS)
    wrong = [key for key, value in location.items() if value is not None and not isinstance(value, kinds.get(key, ()))]
    if wrong:
        raise ValueError(f"{run.path / 'run.json'} is damaged: {listed(wrong)} in its location is no place of data")
    return location


def _without_location(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe["data"].items() if key not in LOCATION_KEYS}


def _try_out(recipe: Recipe, data: Data) -> None:
    """Take two samples through the network and one step of the optimizer, before anything is written."""
    streams = Streams(0, recipe.vary, recipe.shared_seed)
    shape = list(data.network_shape)
    try:
        model = initial_model(recipe, streams)
        generator = streams.generator("augment", 0, 0)
        logits = model(training_inputs(data.train.inputs[:2], data, recipe.augment, generator))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"the recipe fails on two samples of shape {shape}: {type(error).__name__}: {error}"
        ) from error
    if list(logits.shape) != [2, len(data.classes)]:
        raise ValueError(
            f"the model must return logits [B, {len(data.classes)}], one for each class, "
            f"got {list(logits.shape)} for a batch of 2"
        )
    if recipe.max_norm is not None:
        check_max_norm(model)
    try:
        optimizer = recipe.build_optimizer(parameter_groups(model.parameters(), recipe.decay_all))
        steps = steps_an_epoch(recipe, data)
        schedule = build_schedule(optimizer, recipe, recipe.epochs * steps)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the optimizer or its schedule cannot be built: {type(error).__name__}: {error}") from error
    try:  # of some options torch learns only when it uses them
        logits.sum().backward()
        optimizer.step()
    except Exception as error:
        raise ValueError(f"the optimizer cannot take a step: {type(error).__name__}: {error}") from error
    try_schedule(schedule, optimizer, recipe.epochs, steps)
    odd = unsaveable(optimizer_state(optimizer, dict(model.named_parameters())))
    if odd:
        raise ValueError(f"the optimizer's state cannot be saved, for a crash to be survived: {odd}: choose another")
