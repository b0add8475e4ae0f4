"""The directory of runs: the only module that reads or writes ``checkpoints/``.

    checkpoints/<run>/
      run.json               recipe, its hash, classes, data fingerprint, commit, versions
      seed-0007/
        model.safetensors    weights and buffers
        member.json          seed, status, history, device, seconds, SHA-256 of the weights
        logits-test.safetensors         what the member said about a split, kept so as not to ask it twice
        logits-validation.safetensors   (see ``seedvote.logits``); may be deleted at any time

A member is there once its ``member.json`` is: that file is written last. No pickle is written or read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from seedvote.errors import listed
from seedvote.files import digest, read_json, replaced, write_json
from seedvote.types import EpochRecord, TrainedMember

FORMAT = 1

_Record = TypeVar("_Record", "RunRecord", "MemberRecord")


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` holds.

    recipe: everything that shapes the weights, as JSON values. fingerprint: of the data. location: where the data
    lay. seeds: every seed that was ever asked for. command: the last ``train`` command line. counts: samples of each
    split.
    """

    recipe: dict[str, Any]
    recipe_hash: str
    fingerprint: str
    location: dict[str, Any]
    classes: list[str]
    input_shape: list[int]
    input_dtype: str
    mean: list[float]
    std: list[float]
    counts: dict[str, int]
    sample: bool
    seeds: list[int]
    command: str
    created: str
    commit: str | None
    versions: dict[str, str]
    format: int = FORMAT


@dataclass(frozen=True)
class MemberRecord:
    """What ``member.json`` holds; ``diverged`` says why training broke off, or is ``None``."""

    seed: int
    diverged: str | None
    kept_epoch: int
    history: list[dict[str, float]]
    seconds: float
    engine: str
    device: str
    threads: int
    finished: str
    versions: dict[str, str]
    sha256: str
    format: int = FORMAT

    @property
    def kept(self) -> dict[str, float]:
        """The history of the epoch whose weights were kept; empty where there is none."""
        return self.history[self.kept_epoch - 1] if self.kept_epoch else {}


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

    def logits_path(self, seed: int, split: str) -> Path:
        """Return the file of one member's logits on a split, which need not be there."""
        return self.member_path(seed) / f"logits-{split}.safetensors"

    def missing(self, seeds: list[int]) -> list[int]:
        """Return those of the seeds that have no finished member here."""
        return [seed for seed in seeds if not (self.member_path(seed) / "member.json").is_file()]


def recipe_hash(recipe: Mapping[str, Any], fingerprint: str) -> str:
    """Return the hash that tells one recipe on one data set from any other."""
    text = json.dumps([recipe, fingerprint], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def open_run(checkpoints: Path, name: str, record: RunRecord) -> Run:
    """Make a run, or open the one of this name and note the seeds now asked for.

    Raises:
        ValueError: the run of this name has another recipe or other data.
    """
    path = checkpoints / name
    if (path / "run.json").exists():
        old = read_run(path).record
        if old.recipe_hash != record.recipe_hash:
            raise ValueError(
                f"run {name!r} in {checkpoints} was made with another recipe ({_difference(old, record)}): "
                f"choose another run=, or leave run= out to have one named after the recipe"
            )
        seeds = sorted({*old.seeds, *record.seeds})
        record = dataclasses.replace(old, seeds=seeds, command=record.command)
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "run.json", dataclasses.asdict(record))
    return Run(path, record)


def read_run(path: Path) -> Run:
    """Open a run that exists.

    Raises:
        ValueError: ``run.json`` is absent or damaged.
    """
    record = _record(RunRecord, path / "run.json")
    if record.recipe_hash != recipe_hash(record.recipe, record.fingerprint):
        raise ValueError(f"{path / 'run.json'} is damaged: the recipe in it does not match its own hash")
    return Run(path, record)


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
        return read_run(max(found, key=lambda path: (path / "run.json").stat().st_mtime_ns))
    fitting = [path for path in found if path.name == name] or [path for path in found if path.name.startswith(name)]
    if len(fitting) != 1:
        problem = "fits several runs" if fitting else "fits no run"
        names = listed(path.name for path in fitting or found)
        raise ValueError(f"run={name} {problem} under {checkpoints}: choose one of {names}")
    return read_run(fitting[0])


def write_member(run: Run, member: TrainedMember, facts: Mapping[str, Any]) -> MemberRecord:
    """Store a member whose training is over; ``facts`` are the record's keys that training does not know."""
    run.member_path(member.seed).mkdir(exist_ok=True)
    with replaced(run.weights_path(member.seed)) as temporary:
        save_file(dict(member.state), temporary)
        sha256 = digest(temporary)
    record = MemberRecord(
        seed=member.seed,
        diverged=member.diverged,
        kept_epoch=member.kept_epoch,
        history=[dataclasses.asdict(epoch) for epoch in member.history],
        seconds=member.seconds,
        engine=member.engine,
        sha256=sha256,
        **facts,
    )
    write_json(run.member_path(member.seed) / "member.json", dataclasses.asdict(record))
    return record


def read_member(run: Run, seed: int) -> MemberRecord:
    """Read what is known about a member.

    Raises:
        ValueError: its ``member.json`` is absent, damaged, or another member's.
    """
    path = run.member_path(seed) / "member.json"
    record = _record(MemberRecord, path)
    if record.seed != seed:
        raise ValueError(f"{path} belongs to seed {record.seed}, not to seed {seed}: it was moved here")
    fields = {field.name for field in dataclasses.fields(EpochRecord)}
    if not 0 <= record.kept_epoch <= len(record.history) or any(set(row) != fields for row in record.history):
        raise ValueError(f"{path} is damaged: its history is not one")
    return record


def read_weights(run: Run, record: MemberRecord) -> dict[str, Tensor]:
    """Read a member's weights and buffers onto the CPU.

    Raises:
        ValueError: the file is absent, or is not the one that was written.
    """
    path = run.weights_path(record.seed)
    try:
        if digest(path) != record.sha256:
            raise ValueError(f"{path} is damaged: its SHA-256 is not the one in member.json")
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _record(kind: type[_Record], path: Path) -> _Record:
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {values.get('format')!r}, this seedvote reads {FORMAT}: use the version that wrote it"
        )
    hints = get_type_hints(kind)
    wrong = [name for name, hint in hints.items() if name not in values or not _fits(values[name], hint)]
    wrong += [name for name in values if name not in hints]
    if wrong:
        raise ValueError(f"{path} is damaged: {listed(wrong)} missing, unknown or of the wrong type")
    return kind(**values)


def _fits(value: object, hint: Any) -> bool:
    """Say whether a JSON value has the type that a record's field is annotated with."""
    arguments = get_args(hint)
    if hint is Any:
        return True
    if isinstance(hint, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _difference(old: RunRecord, new: RunRecord) -> str:
    there, here = _flat(old.recipe), _flat(new.recipe)
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if not keys:
        return "the data has changed"
    return listed(f"{key} is {there.get(key)} there and {here.get(key)} here" for key in keys)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in _flat(item, f"{prefix}.{key}" if prefix else key).items()
    }
