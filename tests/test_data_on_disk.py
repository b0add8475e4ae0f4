"""Data that take too much memory are mapped from files, and nothing else about them is different."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from seedvote.data import on_disk, prepare
from seedvote.engines.footprint import data_bytes
from seedvote.types import Source, Split

GENERATOR = np.random.default_rng(0)


@pytest.fixture
def little_memory(monkeypatch):
    """A machine with 40 KiB: splits of more than 10 KiB do not fit."""
    monkeypatch.setattr(on_disk, "physical_memory", lambda: 40 * 2**10)


def source(scratch, test=None):
    pixels = torch.from_numpy(GENERATOR.integers(0, 256, (300, 1, 8, 8), dtype=np.uint8))
    return Source(Split(pixels, torch.arange(300) % 3), test, ("a", "b", "c"), scratch)


def prepared(given, **changes):
    options = {"split_seed": 0, "validation": 0.1, "test": 0.2, "limit": None, "normalize": True}
    return prepare(given, name="x", **{**options, **changes})


@pytest.mark.parametrize("limit", [None, 200])
def test_splits_are_what_they_are_in_memory(limit, tmp_path, little_memory):
    given = source(str(tmp_path))
    expected = prepared(dataclasses.replace(given, scratch=None), limit=limit)
    found = prepared(given, limit=limit)
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(found, name).inputs, getattr(expected, name).inputs)
        assert torch.equal(getattr(found, name).labels, getattr(expected, name).labels)
    assert found.fingerprint == expected.fingerprint and found.normalization == expected.normalization
    assert (found.scratch, expected.scratch) == (str(tmp_path), None)


def test_only_what_is_too_large_is_mapped(tmp_path, little_memory, monkeypatch):
    written = []
    real = on_disk.mapped
    monkeypatch.setattr(
        sys.modules["seedvote.data.prepare"],
        "mapped",
        lambda inputs, index, directory: written.append(len(index)) or real(inputs, index, directory),
    )
    prepared(source(str(tmp_path)))
    assert written == [210]  # validation and test, 30 and 60 samples of 64 bytes, are small
    prepared(source(str(tmp_path)), limit=100)
    prepared(source(None))
    assert written == [210]


def test_an_official_test_split_is_taken_in_part_from_the_disk(tmp_path, little_memory):
    test = source(None).train
    data = prepared(source(str(tmp_path), test), test=None, limit=200)
    assert len(data.test) == 200
    assert {bytes(sample.numpy()) for sample in data.test.inputs} <= {bytes(sample.numpy()) for sample in test.inputs}


def lies_in_a_file(tensor, directory):
    """Say whether Linux has mapped a tensor's memory from a file in a directory."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(number, 16) for number in line.split()[0].split("-"))
        if first <= address < last:
            return str(directory) in line
    raise AssertionError("a tensor has an address")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says of memory")
def test_samples_lie_in_a_file(tmp_path, little_memory):
    found, expected = prepared(source(str(tmp_path))), prepared(source(None))
    assert lies_in_a_file(found.train.inputs, tmp_path)
    assert not lies_in_a_file(expected.train.inputs, tmp_path)


def test_no_file_stays(tmp_path, little_memory):
    data = prepared(source(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
    assert int(data.train.inputs.sum()) > 0


def test_what_is_written_to_the_samples_reaches_nobody(tmp_path, little_memory):
    data = prepared(source(str(tmp_path)))
    other = prepared(source(str(tmp_path)))
    data.train.inputs.zero_()
    assert int(other.train.inputs.sum()) > 0


@pytest.mark.parametrize("place", ["absent", "full"])
def test_no_room_is_told_with_what_to_do(place, tmp_path, little_memory, monkeypatch):
    if place == "full":
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full")
        monkeypatch.setattr(on_disk.tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(ValueError, match=r"^the samples take too much of the memory[^\n]* 1 MiB of room\.$"):
        prepared(source(str(tmp_path / "absent")))


def test_the_memory_that_training_takes_is_without_mapped_samples(tmp_path, little_memory):
    assert data_bytes(prepared(source(str(tmp_path)))) == 0
    assert data_bytes(prepared(source(None))) == 300 * (64 + 8)


CODE = """
import sys
from pathlib import Path
import numpy as np
import torch
from recipes import quick_recipe
from seedvote.data import on_disk, prepare
from seedvote.engines.fused import Fused
from seedvote.types import Source, Split

def own_memory():
    return 1024 * int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])

def trained(pixels, scratch):
    source = Source(Split(pixels, torch.arange(len(pixels)) % 10), None, tuple("abcdefghij"), scratch)
    data = prepare(source, name="x", split_seed=0, validation=0.05, test=0.1, limit=None, normalize=True)
    recipe = quick_recipe(data, epochs=1, batch_size=1000)
    events = list(Fused(workers=1).train([1, 2], recipe, data, torch.device("cpu")))
    assert data.scratch == scratch and len(events) == 5, events
    return own_memory()

on_disk.physical_memory = lambda: 2**26
count, place = 200_000, Path(sys.argv[1])
file = np.lib.format.open_memmap(place / "pixels.npy", mode="w+", dtype=np.uint8, shape=(count, 1, 32, 32))
file[:, 0, 0] = np.arange(count, dtype=np.uint32).view(np.uint8).reshape(count, 4).repeat(8, axis=1)
del file
pixels = torch.from_numpy(np.lib.format.open_memmap(place / "pixels.npy", mode="c"))
before = trained(pixels[:5000].clone(), None)  # what torch and scikit-learn take the first time
print(trained(pixels, str(place)) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts memory as Linux does")
def test_training_does_not_hold_what_is_mapped(tmp_path):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60 * 2**20  # of 195 MiB of samples


@pytest.mark.parametrize("engine", ["sequential", "process", "fused"])
def test_members_are_the_same(engine, call, workplace, monkeypatch):
    for label in range(3):
        (workplace / "photos" / str(label)).mkdir(parents=True)
        for index in range(40):
            pixels = np.random.default_rng(100 * label + index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(workplace / "photos" / str(label) / f"{index}.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    arguments = ("data=image_folder", "data.root=photos", "data.size=8", "model=mlp", "model.hidden=[8]", "epochs=2",
                 "n_seeds=2", "batch_size=16", f"engine={engine}", "data.test=0.2")  # fmt: skip
    assert call("train", *arguments, "run=memory").status == 0
    monkeypatch.setattr(on_disk, "physical_memory", lambda: 2**10)
    outcome = call("train", *arguments, "run=disk")
    assert outcome.status == 0, outcome.err
    assert "3 classes; read from disk as they are needed" in outcome.out
    for seed in (0, 1):
        found = [
            json.loads(Path(f"checkpoints/{run}/seed-{seed:04d}/member.json").read_text()) for run in ("memory", "disk")
        ]
        assert found[0]["sha256"] == found[1]["sha256"]
    assert len(list((workplace / "cache" / "seedvote").iterdir())) == 1
