"""What the command lines may say: the keys of each command and the types of their values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class TrainConfig:
    """The keys of ``conf/train.yaml``, which holds their defaults and says what they mean."""

    n_seeds: int = MISSING
    first_seed: int = MISSING
    seeds: list[int] | None = None
    vary: list[str] = MISSING
    shared_seed: int = MISSING
    split_seed: int = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    label_smoothing: float = MISSING
    clip_norm: float | None = None
    clip_value: float | None = None
    l1: float = MISSING
    max_norm: float | None = None
    decay_all: bool = MISSING
    patience: int | None = None
    frozen: list[str] = MISSING
    device: str = MISSING
    threads: int | None = None
    matmul: str = MISSING
    run: str | None = None
    checkpoints: str = MISSING
    save_every: float = MISSING
    on_damaged: str = MISSING
    logger: str = MISSING
    diagnose: bool = MISSING
    members: Any = None
    data: Any = MISSING
    preprocess: Any = MISSING
    augment: Any = MISSING
    model: Any = MISSING
    init: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    engine: Any = MISSING


@dataclass
class DataLocation:
    """Where a run's data lies today, if not where it lay."""

    root: str | None = None
    file: str | None = None


@dataclass
class PredictConfig:
    """The keys of ``conf/predict.yaml``, which holds their defaults and says what they mean."""

    run: str | None = None
    checkpoints: str = MISSING
    vote: str = MISSING
    tie: str = MISSING
    on_bad_member: str = MISSING
    head: str = MISSING
    fold_batchnorm: bool = MISSING
    images: str | None = None
    arrays: str | None = None
    output: str | None = None
    device: str = MISSING
    threads: int | None = None
    matmul: str = MISSING
    trust: bool = MISSING
    data: DataLocation = field(default_factory=DataLocation)


@dataclass
class CompareConfig:
    """The keys of ``conf/compare.yaml``, which holds their defaults and says what they mean."""

    run: str | None = None
    runs: list[str] | None = None
    rival: Any = None
    checkpoints: str = MISSING
    seeds: list[int] | None = None
    vote: str = MISSING
    tie: str = MISSING
    on_bad_member: str = MISSING
    head: str = MISSING
    level: float = MISSING
    seed: int = MISSING
    output: str | None = None
    device: str = MISSING
    threads: int | None = None
    matmul: str = MISSING
    trust: bool = MISSING
    data: DataLocation = field(default_factory=DataLocation)


@dataclass
class VerifyConfig:
    """The keys of ``conf/verify.yaml``, which holds their defaults and says what they mean."""

    run: str | None = None
    checkpoints: str = MISSING
