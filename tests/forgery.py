"""Stored records changed as a stranger could change them: with digests that fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seedvote.files import digest, read_json, write_json
from seedvote.store import recipe_hash
from seedvote.store.records import sealed


def rewritten(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what ``run.json`` says."""
    values = read_json(run / "run.json")[0]
    change(values)
    values["recipe_hash"] = recipe_hash(values["recipe"], values["fingerprint"])
    write_json(run / "run.json", sealed(values))


def believed(member: Path) -> None:
    """Make a member's record vouch for the weights that lie beside it now."""
    values = {**read_json(member / "member.json")[0], "sha256": digest(member / "model.safetensors")}
    write_json(member / "member.json", sealed(values))
