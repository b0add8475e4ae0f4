"""Runs: directories of members of one recipe."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from seedvote.errors import listed
from seedvote.files import refuse_way_out, remove_temporary, write_bytes
from seedvote.limits import flat
from seedvote.store.preprocessing import content_of, read_file
from seedvote.store.records import RunRecord, read_record, write_record
from seedvote.types import Preprocessing


@dataclass(frozen=True)
class Run:
    """A directory of members of one recipe."""

    path: Path
    record: RunRecord

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    def member_path(self, seed: int) -> Path:
        """Return the directory of one member."""
        return self.path / f"seed-{seed:04d}"

    def weights_path(self, seed: int) -> Path:
        """Return the file of one member's weights and buffers."""
        return self.member_path(seed) / "model.safetensors"

    def record_path(self, seed: int) -> Path:
        """Return the file of what is known about one member; once it is there, the member is finished."""
        return self.member_path(seed) / "member.json"

    def snapshot_path(self, seed: int) -> Path:
        """Return the file of what going on with one member needs; it is there only while the member trains."""
        return self.member_path(seed) / "state.safetensors"

    def logits_path(self, seed: int, split: str) -> Path:
        """Return the file of one member's logits on a split, which need not be there."""
        return self.member_path(seed) / f"logits-{split}.safetensors"

    @property
    def preprocessing_path(self) -> Path:
        """Return the file of what follows normalisation, which is there where the recipe has a preprocessing."""
        return self.path / "preprocessing.safetensors"

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """Return those of the seeds that have no finished member here.

        Whatever lies in a record's place counts: what is no file there is damage, not a member to be trained.
        """
        return [seed for seed in seeds if not os.path.lexists(self.record_path(seed))]

    def unrecorded(self) -> list[int]:
        """Return the seeds of members here that ``run.json`` does not know."""
        names = (path.parent.name.removeprefix("seed-") for path in self.path.glob("seed-*/member.json"))
        return sorted({int(name) for name in names if name.isdecimal() and name.isascii()} - {*self.record.seeds})


def recipe_hash(recipe: Mapping[str, Any], fingerprint: str) -> str:
    """Return the hash that tells one recipe on one data set from any other."""
    text = json.dumps([recipe, fingerprint], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def open_run(checkpoints: Path, name: str, record: RunRecord, preprocessing: Preprocessing | None = None) -> Run:
    """Make a run, or open the one of this name and note the seeds now asked for.

    preprocessing: what the members are to be trained with.

    Raises:
        ValueError: the run of this name has another recipe or other data, or another preprocessing.
    """
    content = content_of(preprocessing) if preprocessing is not None else None
    sha256 = hashlib.sha256(content).hexdigest() if content is not None else None
    record = dataclasses.replace(record, preprocessing=sha256)
    path = checkpoints / name
    path.mkdir(parents=True, exist_ok=True)
    refuse_way_out(path / "run.json", path)
    # Another process may be noting its own seeds at this moment.
    with FileLock(path / ".lock"):
        remove_temporary(path / "run.json")
        remove_temporary(Run(path, record).preprocessing_path)
        if (path / "run.json").exists():
            old = read_run(path).record
            if old.recipe_hash != record.recipe_hash:
                raise ValueError(
                    f"run {name!r} in {checkpoints} was made with another recipe ({_difference(old, record)}): "
                    f"choose another run=, or leave run= out to have one named after the recipe"
                )
            if old.preprocessing != sha256:
                raise ValueError(
                    f"run {name!r} in {checkpoints} was made in the meantime, with a preprocessing that another "
                    "machine fitted: give the same command again, and it will be taken"
                )
            seeds = sorted({*old.seeds, *record.seeds})
            record = dataclasses.replace(old, seeds=seeds, command=record.command)
        elif content is not None:  # before run.json, which vouches for it
            refuse_way_out(Run(path, record).preprocessing_path, path)
            write_bytes(Run(path, record).preprocessing_path, content)
        write_record(path / "run.json", record)
    return Run(path, record)


def read_run(path: Path) -> Run:
    """Open a run that exists.

    Raises:
        ValueError: ``run.json`` is absent or damaged.
    """
    refuse_way_out(path / "run.json", path)
    record = read_record(RunRecord, path / "run.json")
    if record.recipe_hash != recipe_hash(record.recipe, record.fingerprint):
        raise ValueError(f"{path / 'run.json'} is damaged: the recipe in it does not match its own hash")
    return Run(path, record)


def read_preprocessing(run: Run) -> Preprocessing | None:
    """Read what follows normalisation in a run, or return ``None`` where nothing does.

    Raises:
        ValueError: its file is absent, is not the one that was written, or does not fit the run's inputs.
    """
    sha256, path = run.record.preprocessing, run.preprocessing_path
    if sha256 is None:
        return None
    refuse_way_out(path, run.path)
    return read_file(path, sha256, tuple(run.record.input_shape))


def find_run(checkpoints: Path, name: str | None) -> Run:
    """Open a run by name or unambiguous prefix, or the one that ``train`` used last.

    Raises:
        ValueError: there is none, or the prefix fits several.
    """
    found = sorted(file.parent for file in checkpoints.glob("[!.]*/run.json"))
    if not found:
        raise ValueError(
            f"no run under {checkpoints.resolve()}: run `python -m seedvote.train` first, or name the directory "
            "with checkpoints="
        )
    if name is None:
        return read_run(max(found, key=_last_used))
    fitting = [path for path in found if path.name == name] or [path for path in found if path.name.startswith(name)]
    if len(fitting) != 1:
        problem = "fits several runs" if fitting else "fits no run"
        names = listed(path.name for path in fitting or found)
        raise ValueError(f"run={name} {problem} under {checkpoints}: choose one of {names}")
    return read_run(fitting[0])


def _last_used(path: Path) -> int:
    try:
        return (path / "run.json").stat().st_mtime_ns
    except OSError:  # a link that leads nowhere
        return -1


def _difference(old: RunRecord, new: RunRecord) -> str:
    there, here = flat(old.recipe), flat(new.recipe)
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if not keys:
        return "the data has changed"
    return listed(f"{key} is {there.get(key)} there and {here.get(key)} here" for key in keys)
