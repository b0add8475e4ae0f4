"""Members whose training is over: their weights and what is known about them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from seedvote.files import digest, opened, refuse_way_out, write_bytes
from seedvote.store.records import MemberRecord, read_record, write_record
from seedvote.store.run import Run
from seedvote.types import EpochRecord, TrainedMember

LARGEST_HEADER = 100_000_008  # bytes that safetensors allows before the weights


def write_member(run: Run, member: TrainedMember, facts: Mapping[str, Any]) -> MemberRecord:
    """Store a member whose training is over; ``facts`` are the record's keys that training does not know."""
    refuse_way_out(run.member_path(member.seed), run.path)
    run.member_path(member.seed).mkdir(exist_ok=True)
    weights = safetensors.torch.save(dict(member.state))
    write_bytes(run.weights_path(member.seed), weights)
    record = MemberRecord(
        seed=member.seed,
        recipe_hash=run.record.recipe_hash,
        diverged=member.diverged,
        kept_epoch=member.kept_epoch,
        history=[dataclasses.asdict(epoch) for epoch in member.history],
        seconds=member.seconds,
        engine=member.engine,
        sha256=hashlib.sha256(weights).hexdigest(),
        **facts,
    )
    write_record(run.record_path(member.seed), record)
    return record


def read_member(run: Run, seed: int) -> MemberRecord:
    """Read what is known about a member.

    Raises:
        ValueError: its ``member.json`` is absent, damaged, or another member's.
    """
    path = run.record_path(seed)
    refuse_way_out(path, run.path)
    record = read_record(MemberRecord, path)
    if record.seed != seed:
        raise ValueError(f"{path} belongs to seed {record.seed}, not to seed {seed}: it was moved here")
    if record.recipe_hash != run.record.recipe_hash:
        raise ValueError(f"{path} belongs to a run of another recipe or other data: it was moved here")
    fields = {field.name for field in dataclasses.fields(EpochRecord)}
    if not 0 <= record.kept_epoch <= len(record.history) or any(set(row) != fields for row in record.history):
        raise ValueError(f"{path} is damaged: its history is not one")
    return record


def read_weights(run: Run, record: MemberRecord, expected_bytes: int | None = None) -> dict[str, Tensor]:
    """Read a member's weights and buffers onto the CPU.

    expected_bytes: how much the network's weights and buffers take; a file that is much larger is not read at all.

    Raises:
        ValueError: the file is absent, or is not the one that was written.
    """
    path = run.weights_path(record.seed)
    refuse_way_out(path, run.path)
    try:
        with opened(path) as file:
            # A file may be sparse: its size alone says how much reading it would take.
            if expected_bytes is not None and os.fstat(file.fileno()).st_size > expected_bytes + LARGEST_HEADER:
                raise ValueError(f"{path} is damaged: it is far larger than the network's weights")
            weights = file.read()
        if hashlib.sha256(weights).hexdigest() != record.sha256:
            raise ValueError(f"{path} is damaged: its SHA-256 is not the one in member.json")
        return safetensors.torch.load(weights)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def check_member(run: Run, seed: int) -> str | None:
    """Say what is wrong with the files of a finished member, or ``None``."""
    try:
        record = read_member(run, seed)
        path = run.weights_path(seed)
        refuse_way_out(path, run.path)
        # The header says how long the file is: a huge sparse one need not be hashed, which could take days.
        opened(path).close()
        with safetensors.safe_open(path, framework="pt"):
            pass
        if digest(path) != record.sha256:
            return f"{path} is damaged: its SHA-256 is not the one in member.json"
    except ValueError as error:
        return str(error)
    except safetensors.SafetensorError as error:
        return f"{path} is damaged: {error}"
    except OSError as error:
        return f"{run.weights_path(seed)} cannot be read: {error.strerror or error}"
    return None


def set_aside(path: Path) -> Path | None:
    """Give a damaged file another name beside its own, so that it is out of the way and not lost."""
    if not path.exists() and not path.is_symlink():
        return None
    free = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    other = next(name for name in free if not name.exists())
    path.rename(other)
    return other
