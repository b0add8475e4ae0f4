"""Logits are computed once, and only what is whole and fits is believed."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from forgery import believed
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_weights

from seedvote.assembly import stored_data
from seedvote.inference import load
from seedvote.logits import split_logits


@pytest.fixture
def once(runs):
    """An ensemble, its data, and the file of one member's logits after they were computed."""
    ensemble = load(runs / "it")
    data = stored_data(ensemble.run, {}, trust=False)
    found = split_logits(ensemble, data.test, "test")
    assert found.computed == 5
    return ensemble, data, found, runs / "it" / "seed-0002" / "logits-test.safetensors"


def test_they_are_computed_once(once, asked):
    ensemble, data, found, _ = once
    np.testing.assert_array_equal(found.logits, ensemble.predict_logits(data.test.inputs))
    asked.clear()
    again = split_logits(load(ensemble.run.path), data.test, "test")
    assert not asked
    assert again.computed == 0
    np.testing.assert_array_equal(again.logits, found.logits)
    assert again.seconds == found.seconds
    assert all(seconds > 0 for seconds in found.seconds)
    assert again.devices == found.devices


def test_splits_are_kept_apart(once, asked):
    ensemble, data, _, path = once
    found = split_logits(ensemble, data.validation, "validation")
    assert found.computed == 5
    assert found.logits.shape == (5, len(data.validation), 10)
    path.write_bytes(path.with_name("logits-validation.safetensors").read_bytes())
    asked.clear()
    split_logits(ensemble, data.test, "test")
    assert asked == [2]


def test_a_new_member_is_the_only_one_asked(once, asked):
    ensemble, data, _, path = once
    path.unlink()
    assert split_logits(ensemble, data.test, "test").computed == 1
    assert asked == [2]
    assert path.is_file()


def rewritten(path, change):
    """Write the file again with other contents or metadata, as a stranger or an accident would."""
    with safe_open(path, framework="numpy") as file:
        metadata, logits = dict(file.metadata()), file.get_tensor("logits")
    logits, metadata = change(logits.copy(), metadata)
    save_file({"logits": logits}, path, metadata)


def flipped(logits, metadata):
    logits[0, 0] += 1
    return logits, metadata


def retyped(path, dtype):
    with safe_open(path, framework="pt") as file:
        facts, logits = file.metadata(), file.get_tensor("logits")
    save_weights({"logits": logits.to(dtype)}, path, facts)


DAMAGE = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "no safetensors": lambda path: path.write_bytes(b"nothing of the kind"),
    "empty": lambda path: path.write_bytes(b""),
    "other logits": lambda path: rewritten(path, flipped),
    "other weights": lambda path: rewritten(path, lambda logits, facts: (logits, {**facts, "weights": "0" * 64})),
    "other data": lambda path: rewritten(path, lambda logits, facts: (logits, {**facts, "fingerprint": "0" * 64})),
    "other seconds": lambda path: rewritten(path, lambda logits, facts: (logits, {**facts, "seconds": "0.0"})),
    "bfloat16": lambda path: retyped(path, torch.bfloat16),
    "float8": lambda path: retyped(path, torch.float8_e4m3fn),
    "float64": lambda path: retyped(path, torch.float64),
    "fewer samples": lambda path: rewritten(path, lambda logits, facts: (logits[:-1], facts)),
    "no metadata": lambda path: rewritten(path, lambda logits, facts: (logits, {"format": "np"})),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_computed_again_and_never_believed(kind, once, asked):
    ensemble, data, found, path = once
    DAMAGE[kind](path)
    asked.clear()
    again = split_logits(ensemble, data.test, "test")
    assert asked == [2]
    np.testing.assert_array_equal(again.logits, found.logits)
    if kind != "a directory":  # which cannot be replaced, so that it is computed each time
        assert split_logits(ensemble, data.test, "test").computed == 0


def test_another_checkpoint_under_the_same_seed_is_noticed(once, asked):
    ensemble, data, found, path = once
    weights = path.with_name("model.safetensors")
    save_weights({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    believed(path.parent)
    asked.clear()
    again = split_logits(load(ensemble.run.path), data.test, "test")
    assert asked == [2]
    assert not np.array_equal(again.logits[2], found.logits[2])
    np.testing.assert_array_equal(again.logits[3], found.logits[3])


def test_a_run_that_cannot_be_written_to_can_still_be_read(runs, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    ensemble = load(runs / "it")
    data = stored_data(ensemble.run, {}, trust=False)
    monkeypatch.setattr(os, "replace", full)
    assert split_logits(ensemble, data.test, "test").computed == 5
    assert not list(runs.rglob("*logits*"))


def test_some_members_only(runs):
    ensemble = load(runs / "it", seeds=[3, 1])
    assert ensemble.seeds == (1, 3)
    with pytest.raises(ValueError, match="run 'it' has no member with seed 9: choose from its seeds 0, 1, 2, 3, 4"):
        load(runs / "it", seeds=[1, 9])
