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

from seedvote.files import opened, write_bytes
from seedvote.store.records import fits
from seedvote.types import EpochRecord, Snapshot

_FACTS = ("step", "seconds", "epoch_seconds", "kept_epoch", "groups")
_FORMS = {
    "seed": int,
    "recipe_hash": str,
    "step": int,
    "seconds": float,
    "epoch_seconds": float,
    "kept_epoch": int,
    "groups": list[dict[str, Any]],
    "history": list[dict[str, float]],
    "optimizer": dict[str, dict[str, bool | float | str | None]],
}
ATTEMPTS = 10  # to read a file that is replaced meanwhile, again and again
_NO_DIGEST = "0" * 64  # stands in the digest's place while the file is hashed


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
    content = safetensors.torch.save(tensors, {"facts": text, "digest": _NO_DIGEST})
    sealed = content.replace(_NO_DIGEST.encode(), hashlib.sha256(content).hexdigest().encode(), 1)
    write_bytes(path, sealed)


def read_snapshot(path: Path, seed: int, recipe_hash: str) -> Snapshot:
    """Read where a member in training stood.

    Raises:
        ValueError: the file cannot be read, is damaged, or belongs to another member or run.
    """
    for attempt in range(ATTEMPTS):
        standing = _identity(path)
        try:
            text, tensors = _content(path)
            break
        except (OSError, safetensors.SafetensorError, ValueError) as error:
            # Whoever trains the member may have put a newer file in its place while this one was read.
            if attempt + 1 == ATTEMPTS or _identity(path) == standing:
                raise ValueError(f"{path} cannot be read: {error}") from error
    facts = _facts(path, text, tensors)
    if [facts.pop("seed"), facts.pop("recipe_hash")] != [seed, recipe_hash]:
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


def _content(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the facts and the tensors of a file whose digest fits."""
    opened(path).close()  # a pipe would be waited for
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
        # Before any tensor is made: torch's errors about odd headers are of many kinds.
        if set(metadata) != {"facts", "digest"} or metadata["digest"] != _digest(path, metadata["digest"]):
            raise ValueError("it is damaged, its digest does not fit")
        return metadata["facts"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one in its place; ``None`` where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def unsaveable(optimizer: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say which part of an optimizer's state is neither tensor nor plain number, or ``None``."""
    for parameter, entries in optimizer.items():
        for key, value in entries.items():
            if not isinstance(value, (Tensor, int, float, str, type(None))):
                return f"{key} of {parameter} is a {type(value).__name__}"
    return None


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _facts(path: Path, text: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parse the facts of a sound file; another version of seedvote may have written others."""
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its facts are no JSON") from error
    fields = {field.name for field in dataclasses.fields(EpochRecord)}
    if (
        not isinstance(facts, dict)
        or facts.keys() != _FORMS.keys()
        or not all(fits(facts[name], form) for name, form in _FORMS.items())
        or any(set(epoch) != fields for epoch in facts["history"])
        or not 0 <= facts["kept_epoch"] <= len(facts["history"])
        or facts["step"] < 0
        or "loss_sum" not in tensors
        or not {name.rpartition("/")[0] for name in _part(tensors, "optimizer/")} <= facts["optimizer"].keys()
    ):
        raise ValueError(f"{path} is not as this seedvote writes it: facts are missing, unknown or of the wrong form")
    return facts


def _digest(path: Path, own: str) -> str:
    """Return the SHA-256 of a file as it was before its own digest was put in."""
    return hashlib.sha256(path.read_bytes().replace(own.encode(), _NO_DIGEST.encode(), 1)).hexdigest()
