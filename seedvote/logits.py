"""What each member said about a split, computed once and kept beside its weights.

    seed-0007/logits-test.safetensors    logits [S, C]; metadata: what they were computed from, how long it took, digest
    seed-0007/logits-test-knn.safetensors    the same of another way to answer, see ``Ensemble.cache_suffix``

A file counts only if it was computed with these weights on this data and is whole; anything else is computed again
and written over. The files may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from seedvote.device import device_name
from seedvote.files import refuse_way_out, write_bytes
from seedvote.inference import Ensemble
from seedvote.store import MemberRecord, Run
from seedvote.types import Split

_KEYS = ("weights", "fingerprint", "split", "seconds", "device")


@dataclass(frozen=True, eq=False)
class SplitLogits:
    """Logits ``[M, S, C]`` of an ensemble on a split.

    seconds: for each member how long computing them took, data transfer and normalisation included; devices: on
    what. computed: how many members were asked now, the others having been asked before.
    """

    logits: npt.NDArray[np.float32]
    seconds: tuple[float, ...]
    devices: tuple[str, ...]
    computed: int


def split_logits(ensemble: Ensemble, split: Split, name: str) -> SplitLogits:
    """Return every member's logits on ``validation`` or ``test`` of the run's own data; read those that are known.

    The caller has made sure that the split belongs to the data that the run's record names.
    """
    run, name = ensemble.run, f"{name}{ensemble.cache_suffix}"
    shape = (len(split), len(ensemble.classes))
    logits = np.empty((len(ensemble.members), *shape), np.float32)
    facts: list[dict[str, str]] = []
    computed = 0
    for position, member in enumerate(ensemble.members):
        known = _read(run, member, name, shape)
        if known is None:
            # What is only slow the first time shall not count, nor what a member's neighbours take to be found.
            if not computed or ensemble.cache_suffix:
                ensemble.member_logits(position, split.inputs[:1])
            started = time.perf_counter()
            values = ensemble.member_logits(position, split.inputs)
            seconds = time.perf_counter() - started
            computed += 1
            known = values, {"seconds": repr(seconds), "device": device_name(ensemble.device)}
            _write(run, member, name, *known)
        logits[position] = known[0]
        facts.append(known[1])
    return SplitLogits(
        logits,
        tuple(float(fact["seconds"]) for fact in facts),
        tuple(fact["device"] for fact in facts),
        computed,
    )


def _read(
    run: Run, member: MemberRecord, split: str, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], dict[str, str]] | None:
    """Return what the file holds, or ``None`` where there is none, or it is damaged, or of other weights or data."""
    path = run.logits_path(member.seed, split)
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        refuse_way_out(path, run.path)
        with safe_open(path, framework="numpy") as file:
            stored = dict(file.metadata() or {})
            found = file.get_slice("logits")
            if tuple(found.get_shape()) != shape or found.get_dtype() != "F32":
                return None  # unread: the memory might not do, and NumPy lacks some types
            logits = file.get_tensor("logits")
        if not 0 <= float(stored.get("seconds", "nan")) < float("inf"):
            return None
    except (OSError, SafetensorError, ValueError, TypeError):
        return None
    wanted = {"weights": member.sha256, "fingerprint": run.record.fingerprint, "split": split}
    whole = set(stored) == {*_KEYS, "digest"} and stored["digest"] == _digest(logits, stored)
    return (logits, stored) if whole and all(stored[key] == value for key, value in wanted.items()) else None


def _write(run: Run, member: MemberRecord, split: str, logits: npt.NDArray[np.float32], facts: dict[str, str]) -> None:
    metadata = {**facts, "weights": member.sha256, "fingerprint": run.record.fingerprint, "split": split}
    metadata["digest"] = _digest(logits, metadata)
    # A run that may not be written to, or a full disk: then they are computed again next time. Safetensors' own writing
    # would raise what is no OSError.
    with suppress(OSError):
        write_bytes(run.logits_path(member.seed, split), save({"logits": logits}, metadata))


def _digest(logits: npt.NDArray[np.generic], metadata: dict[str, str]) -> str:
    facts = [*(metadata[key] for key in _KEYS), str(logits.dtype), list(logits.shape)]
    return hashlib.sha256(json.dumps(facts).encode() + np.ascontiguousarray(logits).tobytes()).hexdigest()
