"""From what Hydra composed to a checked config, and from that to the recipe.

Only this module, ``schemas``, ``targets``, ``command`` and the entry modules import Hydra; nothing here imports torch,
so that help and wrong command lines answer at once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from seedvote.config_checks import compare_problems, predict_problems, train_problems, verify_problems
from seedvote.errors import unknown
from seedvote.limits import wrong_elements
from seedvote.schemas import CompareConfig, PredictConfig, TrainConfig, VerifyConfig
from seedvote.types import STREAMS
from seedvote.variants import SHARED_KEYS

_PACKAGE = Path(__file__).resolve().parent
# Inside an installed wheel the configs lie in the package; in a checkout, beside it.
CONF_DIR = str(_PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf")

RECIPE_KEYS = (
    "data", "augment", "model", "init", "optimizer", "scheduler", "epochs", "batch_size", "label_smoothing",
    "clip_norm", "decay_all", "patience", "vary", "shared_seed", "split_seed",
)  # fmt: skip
# Recipe keys that came later, with the value that means what was before them: a recipe names them only where they say
# something else, so that older recipes keep their hash and their runs.
NEUTRAL: dict[str, Any] = {
    "preprocess": {"_target_": "seedvote.data.preprocessing.none"},
    "clip_value": None,
    "l1": 0.0,
    "max_norm": None,
    "frozen": [],
    "members": None,
}
# Options of seedvote's networks that came later too: null, which no recipe names, leaves it to the network.
MODEL_OPTIONS = ("norm", "activation")
# Where the data lies and how it is read: no part of the recipe, since the data's fingerprint is.
LOCATION_KEYS = ("root", "file", "download", "cache", "workers")
# What seedvote itself does to any data set; the rest of `data` goes to its `_target_`.
PREPARATION_KEYS = ("name", "validation", "test", "limit", "normalize")
# What the keys of `data` that came later say where the recipe does not name them, as NEUTRAL for the others.
NEUTRAL_DATA: dict[str, Any] = {"bootstrap": False}

# What members of one run may differ in.
MEMBER_KEYS = tuple(key for key in (*RECIPE_KEYS, *NEUTRAL) if key not in SHARED_KEYS)

_PROBLEMS: dict[type, Callable[[Any], list[str]]] = {
    TrainConfig: train_problems,
    PredictConfig: predict_problems,
    CompareConfig: compare_problems,
    VerifyConfig: verify_problems,
}

_Config = TypeVar("_Config")


def checked(composed: DictConfig, kind: type[_Config]) -> _Config:
    """Turn a composed Hydra config into a checked record of a kind.

    Raises:
        ValueError: with one line for each mistake.
    """
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    problems = [unknown("key", str(key), known) for key in composed if key not in known]
    config = OmegaConf.to_object(composed)
    assert isinstance(config, kind)
    # The other checks rely on what the schema says, which OmegaConf does not hold inside lists.
    wrong = wrong_elements(config, kind)
    problems += wrong or _PROBLEMS[kind](config)
    if problems:
        raise ValueError("\n".join(problems))
    _drop_what_says_nothing(config)
    return config


def _drop_what_says_nothing(config: object) -> None:
    if isinstance(config, TrainConfig) and config.model["_target_"].startswith("seedvote.models."):
        unsaid = [key for key in MODEL_OPTIONS if config.model.get(key) is None]
        config.model = {key: value for key, value in config.model.items() if key not in unsaid}


def with_variants(config: TrainConfig, compose: Callable[[dict[str, str]], DictConfig]) -> TrainConfig:
    """Return the config with what each entry of ``members`` stands for: the values of the keys that it changes.

    compose: composes the running command once more with some keys set otherwise, in the notation of the command line.

    Raises:
        ValueError: an entry does not compose, with one line for each mistake.
    """
    if config.members is None:
        return config
    problems: list[str] = []
    members = []
    for number, entry in enumerate(config.members, start=1):
        changes = {"members": "null"} | {key: _on_command_line(value) for key, value in entry.items()}
        try:
            other = checked(compose(changes), TrainConfig)
        except ValueError as error:
            problems += [f"members, entry {number}: {line}" for line in str(error).splitlines()]
            continue
        values = {key: getattr(other, key) for key in MEMBER_KEYS}
        shared = {field.name for field in dataclasses.fields(config)} - {*MEMBER_KEYS, "members"}
        problems += [
            f"members, entry {number} sets {key}, which all members of a run share: leave it out"
            for key in sorted(shared)
            if getattr(other, key) != getattr(config, key)
        ]
        members.append({key: value for key, value in values.items() if value != getattr(config, key)})
    if problems:
        raise ValueError("\n".join(problems))
    return dataclasses.replace(config, members=members)


def _on_command_line(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_on_command_line(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_on_command_line, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def chosen_seeds(config: TrainConfig) -> list[int]:
    """Return the seeds of the members that the command asks for."""
    if config.seeds is not None:
        return config.seeds
    return list(range(config.first_seed, config.first_seed + config.n_seeds))


def recipe_of(config: TrainConfig) -> dict[str, Any]:
    """Return everything in the config that shapes a member's weights, as plain JSON values.

    Of ``data`` it leaves out where the files lie; the store adds the data's fingerprint instead.
    """
    recipe = {key: getattr(config, key) for key in RECIPE_KEYS}
    recipe |= {key: getattr(config, key) for key, neutral in NEUTRAL.items() if getattr(config, key) != neutral}
    unsaid = NEUTRAL_DATA.items()
    data = {key: value for key, value in config.data.items() if key not in LOCATION_KEYS and (key, value) not in unsaid}
    # Without bootstrap samples their stream is never drawn from.
    drawn = [stream for stream in STREAMS if stream != "sample" or data.get("bootstrap")]
    recipe |= {"data": data, "vary": [stream for stream in drawn if stream in config.vary]}
    return recipe


def config_text(config: TrainConfig) -> str:
    """Return the whole config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config)).rstrip()


def location_of(config: TrainConfig) -> dict[str, Any]:
    """Return where the data lies and how it is read, with absolute paths."""
    location = {key: value for key, value in config.data.items() if key in LOCATION_KEYS}
    for key in ("root", "file"):
        if location.get(key):
            location[key] = str(Path(location[key]).expanduser().resolve())
    return location
