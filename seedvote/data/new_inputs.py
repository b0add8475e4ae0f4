"""Inputs that a trained run has not seen, for prediction."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seedvote.data.archive import opened
from seedvote.data.arrays import class_indices, images_or_vectors
from seedvote.data.image_files import MODES, decode_all, listed_images


def read_image_folder(folder: str, input_shape: tuple[int, ...]) -> tuple[Tensor, list[str], list[str]]:
    """Decodes every image file under a folder, however deep, as the training images were decoded.

    input_shape: ``(channels, height, width)`` of the run. Returns ``uint8`` ``[S, channels, height, width]``,
    the ``S`` paths relative to ``folder`` (sorted; bytes of a name that are no UTF-8 as ``\\xff``), and a sentence
    for each file or folder that could not be read. Hidden files and folders are left out; links to files are
    followed, links to folders are not. Raises ``ValueError`` if the run takes no images, or there is no readable
    one.
    """
    if len(input_shape) != 3 or input_shape[0] not in MODES:
        raise ValueError(
            f"the run takes inputs of shape {tuple(input_shape)}, not grey or RGB images: give a .npz file "
            "with an array 'inputs' instead of a folder."
        )
    top = os.path.abspath(os.path.expanduser(folder))
    if not Path(top).is_dir():
        raise ValueError(f"there is no folder {top!r}: give the folder that holds the images.")
    paths, messages = _images_below(top)
    if not paths and messages:
        raise ValueError(f"no folder under {top!r} can be read: {messages[0]}")
    if not paths:
        raise ValueError(f"{top!r} holds no image file: give a folder with images such as .png or .jpg files.")
    pixels = np.empty((len(paths), *input_shape), dtype=np.uint8)
    names: list[str] = []
    decoded = decode_all([os.path.join(top, path) for path in paths], pixels.shape[1:], None, "decoding")
    for path, image in zip(paths, decoded, strict=True):
        if isinstance(image, ValueError):
            messages.append(f"{path!r} cannot be read: {image}")
        else:
            pixels[len(names)] = image
            names.append(os.fsencode(path).decode("utf-8", "backslashreplace"))
    if not names:
        raise ValueError(f"none of the {len(paths)} image files under {top!r} can be read: {messages[0]}")
    return torch.from_numpy(pixels[: len(names)]), names, messages


def read_arrays(file: str, input_shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Reads ``inputs`` ``[S, *input_shape]``, and ``labels`` ``[S]`` if they are there, from a ``.npz`` file.

    dtype: ``torch.uint8`` or ``torch.float32``, what the run was trained on. Raises ``ValueError`` as
    ``arrays`` does, and for samples of another shape or dtype than the run takes.
    """
    archive = opened(file)
    with_labels = "labels" in archive.headers
    contents = archive.read(["inputs", "labels"] if with_labels else ["inputs"])
    inputs = images_or_vectors(contents["inputs"], "inputs", archive.path)
    if tuple(inputs.shape[1:]) != tuple(input_shape):
        raise ValueError(
            f"'inputs' in {archive.path!r} holds samples of shape {tuple(inputs.shape[1:])}, but the run "
            f"takes {tuple(input_shape)}: bring them to that shape."
        )
    if len(inputs) == 0:
        raise ValueError(f"'inputs' in {archive.path!r} holds no sample: wanted at least one.")
    if inputs.dtype != dtype:
        raise ValueError(
            f"'inputs' in {archive.path!r} is {_name(inputs.dtype)}, but the run was trained on "
            f"{_name(dtype)}: save them with the dtype and the range of values of the training data."
        )
    labels = class_indices(contents["labels"], "labels", len(inputs), archive.path) if with_labels else None
    return inputs, labels


def _images_below(top: str) -> tuple[list[str], list[str]]:
    """The image files, and a sentence for each folder that may not be looked into."""
    found: list[str] = []
    unreadable: list[OSError] = []
    for directory, folders, _ in os.walk(top, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        try:
            found += [os.path.relpath(entry.path, top) for entry in listed_images(directory)]
        except OSError as error:
            unreadable.append(error)
    messages = [
        f"{os.path.relpath(error.filename or top, top)!r} cannot be read: {error.strerror or error}"
        for error in unreadable
    ]
    return sorted(Path(path).as_posix() for path in found), messages


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
