"""The readers of files that may come from strangers, and the valid files that damage starts from."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mutations import changed_json, changed_npz, changed_safetensors, damaged, json_bytes
from seedvote.data import arrays, image_folder, read_arrays, read_image_folder
from seedvote.data.image_files import decode_all
from seedvote.files import digest, json_text, write_json
from seedvote.inference import load
from seedvote.store import read_member, read_preprocessing, read_run, read_weights, recipe_hash
from seedvote.store.preprocessing import content_of
from seedvote.store.records import sealed
from seedvote.types import Preprocessing

FORMATS = (
    "png",
    "jpg",
    "gif",
    "bmp",
    "tiff",
    "webp",
    "ppm",
    "tga",
    "ico",
    "jp2",
    "avif",
    "pcx",
    "dds",
    "icns",
    "sgi",
    "im",
)


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    prepare: writes a changed file into an empty directory. read: reads it. named: what the message must hold.
    """

    name: str
    prepare: Callable[[Path, random.Random], None]
    read: Callable[[Path], object]
    named: str


class Readers:
    """The valid files that the changes start from, and the readers."""

    def __init__(self, run: Path) -> None:
        """Take a sound run with a member of seed 0, and make pictures and arrays."""
        self.run = run
        self.run_json = (run / "run.json").read_bytes()
        self.member_json = (run / "seed-0000" / "member.json").read_bytes()
        self.weights = (run / "seed-0000" / "model.safetensors").read_bytes()
        self.preprocessing = _valid_preprocessing(json.loads(self.run_json)["input_shape"])
        self.npz = _valid_npz()
        self.images = _valid_images()

    def all(self) -> list[Reader]:
        """Return every reader."""
        return [
            Reader("run.json", self._run_json, read_run, "run.json"),
            Reader("member.json", self._member_json, lambda place: read_member(read_run(place), 0), "member.json"),
            Reader("safetensors", self._weights, _read_weights, "model.safetensors"),
            Reader("preprocessing", self._preprocessing, _read_preprocessing, "preprocessing.safetensors"),
            Reader("a whole run", self._whole_run, _use_run, "run"),
            Reader(".npz to train on", self._arrays, lambda place: arrays(str(place / "a.npz")), "a.npz"),
            Reader(".npz to predict", self._arrays, _read_arrays, "a.npz"),
            Reader("image", self._image, _decode, ""),
            Reader("folder to train on", self._folder, _image_folder, "photos"),
            Reader("folder to predict", self._folder, _predict_folder, "photos"),
        ]

    def _run_json(self, place: Path, dice: random.Random) -> None:
        (place / "run.json").write_bytes(self._changed_run(dice))

    def _changed_run(self, dice: random.Random) -> bytes:
        if dice.random() < 0.3:
            return damaged(self.run_json, dice, self.member_json)
        values = changed_json(json.loads(self.run_json), dice)
        with contextlib.suppress(Exception):  # where it can be made, a hash that fits lets the rest be reached
            values["recipe_hash"] = recipe_hash(values["recipe"], values["fingerprint"])
        return record_bytes(values, dice)

    def _member_json(self, place: Path, dice: random.Random) -> None:
        shutil.copytree(self.run, place, dirs_exist_ok=True)
        (place / "seed-0000" / "member.json").write_bytes(self._changed_member(dice))

    def _changed_member(self, dice: random.Random) -> bytes:
        if dice.random() < 0.3:
            return damaged(self.member_json, dice, self.run_json)
        return record_bytes(changed_json(json.loads(self.member_json), dice), dice)

    def _weights(self, place: Path, dice: random.Random) -> None:
        """Damage the weights; in two of three cases by somebody who makes the digest fit."""
        shutil.copytree(self.run, place, dirs_exist_ok=True)
        weights = place / "seed-0000" / "model.safetensors"
        if dice.random() < 0.3:
            weights.write_bytes(damaged(self.weights, dice, self.run_json))
        else:
            weights.write_bytes(changed_safetensors(self.weights, dice))
        if dice.random() < 0.67:
            record = {**json.loads(self.member_json), "sha256": digest(weights)}
            write_json(place / "seed-0000" / "member.json", sealed(record))

    def _preprocessing(self, place: Path, dice: random.Random) -> None:
        """Damage a preprocessing; in two of three cases by somebody who makes the digest fit."""
        file = place / "preprocessing.safetensors"
        if dice.random() < 0.3:
            file.write_bytes(damaged(self.preprocessing, dice, self.run_json))
        else:
            file.write_bytes(changed_safetensors(self.preprocessing, dice))
        sha256 = digest(file) if dice.random() < 0.67 else hashlib.sha256(self.preprocessing).hexdigest()
        write_json(place / "run.json", sealed({**json.loads(self.run_json), "preprocessing": sha256}))

    def _whole_run(self, place: Path, dice: random.Random) -> None:
        self._weights(place, dice) if dice.random() < 0.3 else shutil.copytree(self.run, place, dirs_exist_ok=True)
        kind = dice.randrange(4)
        if kind < 2:
            (place / "run.json").write_bytes(self._changed_run(dice))
        elif kind == 2:
            (place / "seed-0000" / "member.json").write_bytes(self._changed_member(dice))
        else:
            something_else(dice.choice([path for path in place.rglob("*") if path.is_file()]), dice)

    def _arrays(self, place: Path, dice: random.Random) -> None:
        content = dice.choice(self.npz)
        changed = damaged(content, dice, self.run_json) if dice.random() < 0.4 else changed_npz(content, dice)
        (place / "a.npz").write_bytes(changed)

    def _image(self, place: Path, dice: random.Random) -> None:
        kind = dice.choice(sorted(self.images))
        other = self.images[dice.choice(sorted(self.images))]
        (place / f"a.{dice.choice([kind, kind, 'png'])}").write_bytes(damaged(self.images[kind], dice, other))

    def _folder(self, place: Path, dice: random.Random) -> None:
        """A folder of pictures, some damaged, with links, pipes and odd names among them."""
        top = place / "photos"
        for name in ("cat", "dog", dice.choice(["train", "test", ".x", "a b", os.fsdecode(b"\xff\xfe"), "x" * 200])):
            (top / name).mkdir(parents=True)
            for index in range(dice.randrange(4)):
                kind = dice.choice(["png", "jpg", "gif"])
                content = self.images[kind]
                path = (
                    top / name / dice.choice([f"{index}.{kind}", os.fsdecode(b"\xe9%d.png" % index), f".{index}.png"])
                )
                path.write_bytes(damaged(content, dice) if dice.random() < 0.3 else content)
                if dice.random() < 0.2:
                    something_else(path, dice)
        if dice.random() < 0.3:
            (top / "up").symlink_to(dice.choice(["..", ".", "/", "nowhere", "up"]))
        if dice.random() < 0.1:
            something_else(top / "dog", dice)


def record_bytes(values: Any, dice: random.Random) -> bytes:
    """Write a record, in two of three cases with a digest that fits where there can be one."""
    if dice.random() < 0.67:
        with contextlib.suppress(Exception):
            return json_text(sealed(values)).encode()
    return json_bytes(values, dice)


def something_else(path: Path, dice: random.Random) -> None:
    """Put a pipe, a directory, a link or a huge empty file in a file's place."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    kind = dice.randrange(6)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to(dice.choice(["/dev/zero", "/dev/null", "/etc/passwd", "/etc", "nowhere", path.name]))
    elif kind == 3:
        with path.open("wb") as file:
            file.truncate(2**42)
    elif kind == 4:
        path.write_bytes(b"")


def _read_weights(place: Path) -> None:
    run = read_run(place)
    read_weights(run, read_member(run, 0))


def _read_preprocessing(place: Path) -> None:
    read_preprocessing(read_run(place))


def _use_run(place: Path) -> None:
    ensemble = load(place, device="cpu")
    record = ensemble.run.record
    ensemble.predict_logits(torch.zeros((2, *record.input_shape), dtype=getattr(torch, record.input_dtype)))


def _read_arrays(place: Path) -> None:
    read_arrays(str(place / "a.npz"), (4,), torch.float32)


def _valid_preprocessing(input_shape: list[int]) -> bytes:
    size = math.prod(input_shape)
    factor = np.random.default_rng(0).normal(size=(5, size)).astype(np.float32)
    return content_of(Preprocessing(np.ones(size, np.float32), factor, (5,)))


def _decode(place: Path) -> None:
    (file,) = place.iterdir()
    for channels in (1, 3):
        (pixels,) = decode_all([str(file)], (channels, 8, 8), 1, "decoding")
        if isinstance(pixels, ValueError):
            raise pixels
        assert pixels.shape == (channels, 8, 8)


def _image_folder(place: Path) -> None:
    image_folder(str(place / "photos"), 8, 3, str(place.parent / "cache"), 1)


def _predict_folder(place: Path) -> None:
    inputs, names, messages = read_image_folder(str(place / "photos"), (3, 8, 8))
    assert len(inputs) == len(names)
    "".join(names).encode()
    assert all("\n" not in message for message in messages)


def _valid_npz() -> list[bytes]:
    generator = np.random.default_rng(0)
    labels, names = np.arange(20) % 3, np.array(["a", "b", "c"])
    vectors, pictures = generator.random((20, 4), np.float32), generator.integers(0, 256, (20, 1, 5, 5), np.uint8)
    contents = []
    for save in (np.savez, np.savez_compressed):
        for inputs in (vectors, pictures):
            for content in (
                {"inputs": inputs, "labels": labels, "classes": names},
                {"train_inputs": inputs, "train_labels": labels, "test_inputs": inputs, "test_labels": labels},
            ):
                stream = io.BytesIO()
                save(stream, **content)
                contents.append(stream.getvalue())
    return contents


def _valid_images() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    found = {}
    for kind in FORMATS:
        stream = io.BytesIO()
        with contextlib.suppress(Exception):  # a format that this Pillow was built without
            Image.fromarray(pixels).save(stream, Image.registered_extensions()[f".{kind}"])
            found[kind] = stream.getvalue()
    return found
