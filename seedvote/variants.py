"""Members that differ in more than their seed: the variants of a recipe, which its members take in turn.

A recipe with ``members``, a list of what each variant has otherwise, gives the member of seed ``s`` variant ``s mod K``
of ``K``. So a member is still a function of recipe and seed alone, and members can be added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from seedvote.limits import leaves

# What all members of a run have in common; they could not be compared otherwise.
SHARED_KEYS = ("data", "preprocess", "vary", "shared_seed", "split_seed", "members")
# The parts of a recipe that a config file or a ``_target_`` names.
PARTS = ("augment", "model", "init", "optimizer", "scheduler")


def variants_of(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the recipe of each variant, whole; one where all members share the recipe."""
    common = {key: value for key, value in recipe.items() if key != "members"}
    members = recipe.get("members")
    return [common] if members is None else [{**common, **own} for own in members]


def recipe_of_member(recipe: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the recipe that the member of a seed is trained by."""
    variants = variants_of(recipe)
    return variants[seed % len(variants)]


def labels(recipe: Mapping[str, Any]) -> list[str]:
    """Return for each variant in a few words what it has that others have not, such as ``lenet, optimizer.lr=0.01``."""
    variants = variants_of(recipe)
    words: list[list[str]] = [[] for _ in variants]
    for key in dict.fromkeys(key for variant in variants for key in variant):
        values = [variant.get(key) for variant in variants]
        if all(value == values[0] for value in values):
            continue
        names = [short_name(value) if isinstance(value, dict) else "" for value in values]
        for own, value, name in zip(words, values, names, strict=True):
            if len(set(names)) > 1:
                own.append(name)
            alike = [dict(leaves(other, key)) for other, its in zip(values, names, strict=True) if its == name]
            own += [
                f"{leaf}={item}"
                for leaf, item in leaves(value, key)
                if any(leaf not in other or other[leaf] != item for other in alike)
            ]
    return [", ".join(own) or f"variant {number}" for number, own in enumerate(words)]


def are_sound(recipe: Mapping[str, Any]) -> bool:
    """Say whether the variants in a stored recipe have the form in which they were written."""
    members = recipe.get("members")
    if members is None:
        return True
    return (
        isinstance(members, list)
        and len(members) > 0
        and all(isinstance(own, dict) and not set(own) & set(SHARED_KEYS) for own in members)
        and all(
            isinstance(own[part], dict) and "_target_" in own[part] for own in members for part in PARTS if part in own
        )
    )


def short_name(spec: Mapping[str, Any]) -> str:
    """Return a word for a data set or model, for run names: its ``name``, else the end of its ``_target_``."""
    word = str(spec.get("name") or str(spec["_target_"]).rsplit(".", 1)[-1])
    return re.sub(r"[^A-Za-z0-9]+", "_", word).strip("_").lower() or "unnamed"
