"""What is wrong with a command line that its schema lets through: ranges, names, combinations."""

from __future__ import annotations

import math
import re
from typing import Any

from seedvote.errors import listed, unknown
from seedvote.limits import (
    LARGEST,
    MOST_SEEDS,
    MOST_THREADS,
    directory_problems,
    is_number,
    leaves,
)
from seedvote.schemas import CompareConfig, PredictConfig, TrainConfig, VerifyConfig
from seedvote.types import INTERVALS, STREAMS

GROUPS = ("data", "preprocess", "augment", "model", "init", "optimizer", "scheduler", "engine")
ON_DAMAGED = ("error", "retrain")
HEADS = ("softmax", "knn")
LOGGERS = ("none", "tensorboard")
MATMULS = ("auto", "torch")


def train_problems(config: TrainConfig) -> list[str]:
    """Say what is wrong with a command line of ``seedvote.train``, one sentence for each mistake."""
    smallest = {
        "n_seeds": 1,
        "first_seed": 0,
        "shared_seed": 0,
        "split_seed": 0,
        "epochs": 1,
        "batch_size": 1,
    }
    problems = [
        f"{key} must be at least {least}, got {getattr(config, key)}"
        for key, least in smallest.items()
        if getattr(config, key) < least
    ]
    largest = {
        "n_seeds": MOST_SEEDS,
        "first_seed": LARGEST - MOST_SEEDS,
        "shared_seed": LARGEST,
        "split_seed": 2**32 - 1,
        "epochs": LARGEST,
        "batch_size": LARGEST,
    }
    problems += [
        f"{key} must be at most {most}, got {getattr(config, key)}"
        for key, most in largest.items()
        if getattr(config, key) > most
    ]
    if config.patience is not None and config.patience < 1:
        problems.append(f"patience must be at least 1, or null for no early stopping, got {config.patience}")
    if not 0 <= config.label_smoothing < 1:
        problems.append(f"label_smoothing must be at least 0 and below 1, got {config.label_smoothing}")
    for key, off in (("clip_norm", "clipping"), ("clip_value", "clipping"), ("max_norm", "limit")):
        value = getattr(config, key)
        if value is not None and not 0 < value < math.inf:
            problems.append(f"{key} must be above 0, or null for no {off}, got {value}")
    if config.clip_norm is not None and config.clip_value is not None:
        problems.append("clip_norm= and clip_value= cannot be combined: leave one out")
    if not 0 <= config.l1 < math.inf:
        problems.append(f"l1 must be at least 0 and finite, got {config.l1}")
    if not config.save_every >= 0:
        problems.append(f"save_every must be at least 0 seconds, got {config.save_every}")
    if config.on_damaged not in ON_DAMAGED:
        problems.append(unknown("on_damaged", config.on_damaged, ON_DAMAGED))
    if config.logger not in LOGGERS:
        problems.append(unknown("logger", config.logger, LOGGERS))
    problems += [unknown("stream in vary", name, STREAMS) for name in config.vary if name not in STREAMS]
    problems += _members_problems(config.members)
    return problems + _seeds_problems(config.seeds) + _spec_problems(config) + _place_problems(config)


def predict_problems(config: PredictConfig) -> list[str]:
    """Say what is wrong with a command line of ``seedvote.predict``."""
    problems = _place_problems(config) + directory_problems("output", config.output)
    problems += [
        f"{key} is empty: name a place, or leave it out" for key in ("images", "arrays") if getattr(config, key) == ""
    ]
    if config.head not in HEADS:
        problems.append(unknown("head", config.head, HEADS))
    if config.images and config.arrays:
        problems.append("images= and arrays= cannot be predicted in one go: give one of them")
    return problems


def compare_problems(config: CompareConfig) -> list[str]:
    """Say what is wrong with a command line of ``seedvote.compare``."""
    problems = _seeds_problems(config.seeds) + _place_problems(config) + directory_problems("output", config.output)
    problems += _rival_problems(config)
    problems += [_name_problem("runs", name, config.checkpoints) for name in config.runs or [] if _is_bad_name(name)]
    if config.head not in HEADS:
        problems.append(unknown("head", config.head, HEADS))
    if not 0 < config.level < 1:
        problems.append(f"level must be above 0 and below 1, such as 0.95, got {config.level}")
    if config.seed < 0:
        problems.append(f"seed must be at least 0, got {config.seed}")
    if config.seed > LARGEST:
        problems.append(f"seed must be at most {LARGEST}, got {config.seed}")
    if config.runs is not None:
        if len(set(config.runs)) < max(2, len(config.runs)):
            problems.append(f"runs names at least two runs and none twice, such as runs=[a,b], got {config.runs}")
        others = [key for key in ("run", "rival", "seeds") if getattr(config, key) is not None]
        if others:
            problems.append(f"runs= cannot be combined with {listed(f'{key}=' for key in others)}: leave one out")
    return problems


def rival_names(rival: Any) -> list[str]:
    """Return the names in ``rival=``: none, one, or those of a list. A name of digits alone comes as a number."""
    names = [] if rival is None else rival if isinstance(rival, list) else [rival]
    return [str(name) if type(name) is int else name for name in names]


def _rival_problems(config: CompareConfig) -> list[str]:
    names = rival_names(config.rival)
    if isinstance(config.rival, list) and (len(names) < 2 or len({*map(str, names)}) < len(names)):
        return [f"rival names one run, or a list of at least two and none twice, such as rival=[a,b], got {names}"]
    bad = [name for name in names if not isinstance(name, str) or _is_bad_name(name)]
    return [_name_problem("rival", name, config.checkpoints) for name in bad]


def _seeds_problems(seeds: list[int] | None) -> list[str]:
    if seeds is None:
        return []
    if not seeds:
        return ["seeds is an empty list: name at least one, such as seeds=[3,7], or leave it out"]
    problems = []
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        problems.append(f"seeds names {listed(twice)} more than once: each seed is one member")
    negative = [seed for seed in seeds if seed < 0]
    if negative:
        problems.append(f"seeds must be at least 0, got {listed(negative)}")
    if max(seeds) > LARGEST:
        problems.append(f"seeds must be at most {LARGEST}, got {max(seeds)}")
    return problems


def _members_problems(members: Any) -> list[str]:
    if members is None:
        return []
    if not isinstance(members, list) or not members:
        form = "[{model:mlp},{model:lenet}]"
        return [f"members must be a list with an entry for each variant, such as {form}, got {members!r}"]
    return [
        f"members, entry {number} must be of the form {{KEY:VALUE,...}}, got {entry!r}"
        for number, entry in enumerate(members, start=1)
        if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry)
    ]


def _spec_problems(config: TrainConfig) -> list[str]:
    problems = []
    for group in GROUPS:
        spec = getattr(config, group)
        if not isinstance(spec, dict) or not isinstance(spec.get("_target_"), str):
            problems.append(f"{group} must be one of the choices that -h lists, or have a _target_, got {spec!r}")
    if problems:
        return problems
    limit = config.data.get("limit")
    if limit is not None and (not is_number(limit, int) or limit < 1):
        problems.append(f"data.limit must be a whole number of at least 1, or null, got {limit!r}")
    for key in ("validation", "test"):
        part = config.data.get(key)
        if (part is not None or key == "validation") and not (is_number(part, float) and 0 < part < 1):
            problems.append(f"data.{key} must be a fraction above 0 and below 1, got {part!r}")
    interval = config.scheduler.get("interval", "step")
    if interval not in INTERVALS:
        problems.append(unknown("scheduler.interval", interval, INTERVALS))
    for key in ("normalize", "bootstrap"):
        if not isinstance(config.data.get(key, False), bool):
            problems.append(f"data.{key} must be true or false, got {config.data[key]!r}")
    if config.vary == ["sample"] and not config.data.get("bootstrap"):
        problems.append("vary=[sample] varies nothing without data.bootstrap=true: add it, or vary something else")
    if not isinstance(config.data.get("name", ""), str):
        problems.append(f"data.name must be a name, got {config.data['name']!r}")
    return problems + [
        f"{key} must be a number that is finite and, if whole, at most {LARGEST}, got {value}"
        for group in GROUPS
        for key, value in leaves(getattr(config, group), group)
        if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and abs(value) > LARGEST)
    ]


def _is_bad_name(run: str | None) -> bool:
    return run is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", run)


def _name_problem(key: str, run: object, checkpoints: str) -> str:
    return (
        f"{key} must be a plain name of letters, digits, '.', '_' and '-' (a directory under "
        f"checkpoints={checkpoints}), got {run!r}"
    )


def _place_problems(config: TrainConfig | PredictConfig | CompareConfig) -> list[str]:
    problems = []
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.device):
        problems.append(f"device must be auto, cpu, cuda, cuda:N or mps, got {config.device!r}")
    if config.threads is not None and config.threads < 1:
        problems.append(f"threads must be at least 1, or null for torch's own choice, got {config.threads}")
    if config.threads is not None and config.threads > MOST_THREADS:
        problems.append(f"threads must be at most {MOST_THREADS}, got {config.threads}")
    if config.matmul not in MATMULS:
        problems.append(unknown("matmul", config.matmul, MATMULS))
    return problems + verify_problems(config)


def verify_problems(config: TrainConfig | PredictConfig | CompareConfig | VerifyConfig) -> list[str]:
    """Say what is wrong with the run that a command line names."""
    problems = [_name_problem("run", config.run, config.checkpoints)] if _is_bad_name(config.run) else []
    return problems + directory_problems("checkpoints", config.checkpoints)
