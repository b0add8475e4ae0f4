"""Members on the way: what going on with their training needs, in one file that carries its own digest.

state.safetensors    state/<name>, kept/<name>, optimizer/<parameter>/<key>, loss_sum; metadata: facts, digest
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from seedvote.files import write_bytes
from seedvote.types import EpochRecord, Snapshot

_FACTS = ("step", "seconds", "epoch_seconds", "kept_epoch", "groups")


def write_snapshot(path: Path, seed: int, recipe_hash: str, snapshot: Snapshot) -> None:
    """Write where a member in training stands, whole or not at all."""
    tensors = {f"state/{name}": tensor for name, tensor in snapshot.state.items()}
    if snapshot.kept is not snapshot.state:
        tensors |= {f"kept/{name}": tensor for name, tensor in snapshot.kept.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for parameter, entries in snapshot.optimizer.items():
        numbers[parameter] = {key: value for key, value in entries.items() if not isinstance(value, Tensor)}
        tensors |= {f"optimizer/{parameter}/{key}": entries[key] for key in entries.keys() - numbers[parameter].keys()}
    tensors["loss_sum"] = snapshot.loss_sum
    facts = {name: getattr(snapshot, name) for name in _FACTS}
    facts |= {"seed": seed, "recipe_hash": recipe_hash, "optimizer": numbers}
    facts["history"] = [dataclasses.asdict(epoch) for epoch in snapshot.history]
    text = json.dumps(facts, allow_nan=False)
    metadata = {"facts": text, "digest": _digest(text, tensors)}
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def read_snapshot(path: Path, seed: int, recipe_hash: str) -> Snapshot:
    """Read where a member in training stood.

    Raises:
        ValueError: the file cannot be read, is damaged, or belongs to another member or run.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if set(metadata) != {"facts", "digest"} or metadata["digest"] != _digest(metadata["facts"], tensors):
        raise ValueError(f"{path} is damaged: its digest does not fit")
    facts = json.loads(metadata["facts"])
    if facts.pop("seed") != seed or facts.pop("recipe_hash") != recipe_hash:
        raise ValueError(f"{path} belongs to another member or another run: it was moved here")
    state = _part(tensors, "state/")
    optimizer: dict[str, dict[str, Any]] = facts.pop("optimizer")
    for name, tensor in _part(tensors, "optimizer/").items():
        parameter, _, key = name.rpartition("/")
        optimizer[parameter][key] = tensor
    history = tuple(EpochRecord(**epoch) for epoch in facts.pop("history"))
    return Snapshot(
        history=history,
        state=state,
        kept=_part(tensors, "kept/") or state,
        optimizer=optimizer,
        loss_sum=tensors["loss_sum"],
        **facts,
    )


def unsaveable(optimizer: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say which part of an optimizer's state is neither tensor nor plain number, or ``None``."""
    for parameter, entries in optimizer.items():
        for key, value in entries.items():
            if not isinstance(value, (Tensor, int, float, str, type(None))):
                return f"{key} of {parameter} is a {type(value).__name__}"
    return None


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(facts.encode() + safetensors.torch.save(dict(tensors))).hexdigest()
