"""What the JSON files of a run hold, and how damage to them is noticed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from seedvote.errors import listed
from seedvote.files import json_text, read_json, write_json

FORMAT = 2

_Record = TypeVar("_Record", "RunRecord", "MemberRecord")


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` holds.

    recipe: everything that shapes the weights, as JSON values. fingerprint: of the data. location: where the data
    lay. seeds: every seed that was ever asked for. command: the last ``train`` command line. counts: samples of each
    split. preprocessing: SHA-256 of its file, where the recipe has one. commit, dirty, diff: of the repository that the
    run was made in, see ``seedvote.provenance.Code``. hardware: of the machine that it was made on. In records of
    earlier versions, what may be ``None`` is.
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
    dirty: bool | None = None
    diff: str | None = None
    hardware: dict[str, Any] | None = None
    format: int = FORMAT
    preprocessing: str | None = None


@dataclass(frozen=True)
class MemberRecord:
    """What ``member.json`` holds.

    recipe_hash: of the run that it belongs to. diverged: why training broke off, or ``None``. sha256: of the file of
    its weights. matmul: who multiplied float32 matrices, where it was not torch's own choice.
    """

    seed: int
    recipe_hash: str
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
    matmul: str | None = None

    @property
    def kept(self) -> dict[str, float]:
        """The history of the epoch whose weights were kept; empty where there is none."""
        return self.history[self.kept_epoch - 1] if self.kept_epoch else {}


def write_record(path: Path, record: RunRecord | MemberRecord) -> None:
    """Write a record with a digest of itself, whole or not at all; later fields only where they say something."""
    values, later = dataclasses.asdict(record), _later(type(record))
    write_json(path, sealed({name: value for name, value in values.items() if (name, value) not in later.items()}))


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's values with a digest of them, in place of one that they may hold."""
    others = {name: value for name, value in values.items() if name != "digest"}
    return {**others, "digest": _digest(others)}


def read_record(kind: type[_Record], path: Path) -> _Record:
    """Read a record.

    Raises:
        ValueError: the file is absent, damaged, of another format, or not as it was written.
    """
    values, content = read_json(path)
    if values.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {values.get('format')!r}, this seedvote reads {FORMAT}: use the version that wrote it"
        )
    # As bytes: reading text would take other ends of lines for those that were written.
    as_written = json_text(values).encode() == content
    sealed = values.pop("digest", None)
    hints = get_type_hints(kind)
    fits_digest = sealed == _digest(values)
    values = {**_later(kind), **values}
    wrong = [name for name, hint in hints.items() if name not in values or not fits(values[name], hint)]
    wrong += [name for name in values if name not in hints]
    if wrong:
        raise ValueError(f"{path} is damaged: {listed(wrong)} missing, unknown or of the wrong type")
    if not fits_digest or not as_written:
        raise ValueError(f"{path} is damaged: it is not as seedvote wrote it, its digest does not fit")
    return kind(**values)


def _later(kind: type[RunRecord | MemberRecord]) -> dict[str, Any]:
    """Return the fields that records of this format may lack, having come later, with what their absence means."""
    fields = dataclasses.fields(kind)
    return {field.name: field.default for field in fields if field.default is None}


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json_text(values).encode()).hexdigest()


def fits(value: object, hint: Any) -> bool:
    """Say whether a JSON value has the type that an annotation names."""
    arguments = get_args(hint)
    if hint is Any:
        return True
    if isinstance(hint, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
