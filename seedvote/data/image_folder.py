"""A folder of image files, one sub-folder a class, decoded once and kept in a cache."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from seedvote.data.image_files import MODES, decode_all, decode_image, listed_images
from seedvote.files import replaced
from seedvote.types import Source, Split

__all__ = ["decode_image", "image_folder"]

LARGEST_SIDE = 4096  # pixels; an image is held in memory a few times over while it is resized
MOST_WORKERS = 256
DECODER = f"1 Pillow {PIL.__version__}"  # part of the cache key: another Pillow may decode to other pixels


def image_folder(root: str, size: int, channels: int, cache: str | None, workers: int | None) -> Source:
    """Images from ``root/train/<class>/*`` and ``root/test/<class>/*``, or from ``root/<class>/*``.

    The latter have no official test split. Each image becomes ``uint8`` ``[channels, size, size]`` (see
    ``decode_image``); class names are the folder names, sorted. Hidden files and files that are no images by
    their name are left out. The decoded pixels are kept in ``cache`` (default ``$XDG_CACHE_HOME/seedvote`` or
    ``~/.cache/seedvote``) and mapped into memory from there; names, sizes and modification times of the files
    tell whether they are still the same.

    Links are followed, for files as for folders: a data set may be made of them. Only the cache is written to.

    Raises ``ValueError``: no such folder, no class folders, a class folder without an image, test classes
    that train does not have, unreadable folders or image files, a cache that cannot be written.
    """
    if channels not in MODES or not 1 <= size <= LARGEST_SIDE:
        raise ValueError(
            f"data.channels={channels} and data.size={size}: wanted channels 1 (grey) or 3 (RGB) and a size "
            f"of 1 to {LARGEST_SIDE} pixels."
        )
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise ValueError(f"data.workers={workers}: wanted 1 to {MOST_WORKERS} threads, or null for one a core.")
    try:
        return _source(root, size, channels, cache, workers)
    except OSError as error:
        raise ValueError(
            f"{error.filename or root!r} under data.root={root!r} cannot be read: {error.strerror or error}: look "
            "at its permissions, or move it away."
        ) from error


def _source(root: str, size: int, channels: int, cache: str | None, workers: int | None) -> Source:
    top = Path(os.path.abspath(os.path.expanduser(root)))
    if not top.is_dir():
        raise ValueError(f"there is no folder {str(top)!r}: set data.root to the folder that holds the images.")
    store = _cache_directory(cache)
    if not _has_official_splits(top):
        classes = _class_names(top)
        return Source(_split(top, classes, size, channels, store, workers), None, classes, str(store))
    classes = _class_names(top / "train")
    train = _split(top / "train", classes, size, channels, store, workers)
    if not (top / "test").is_dir():
        return Source(train, None, classes, str(store))
    _refuse_new_classes(_class_names(top / "test"), classes, top)
    return Source(train, _split(top / "test", classes, size, channels, store, workers), classes, str(store))


def _has_official_splits(top: Path) -> bool:
    """True for ``train/<class>``; ``train`` may also be a class beside others, with images right in it."""
    folders = set(_folders(top))
    return "train" in folders and (bool(_folders(top / "train")) or folders <= {"train", "test"})


def _folders(directory: Path) -> list[str]:
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _class_names(directory: Path) -> tuple[str, ...]:
    names = _folders(directory)
    if not names:
        raise ValueError(
            f"{str(directory)!r} holds no class folders: put the images of each class into a folder of "
            "that class's name."
        )
    return tuple(names)


def _refuse_new_classes(test_classes: tuple[str, ...], classes: tuple[str, ...], top: Path) -> None:
    new = sorted(set(test_classes) - set(classes))
    if new:
        raise ValueError(
            f"{str(top / 'test')!r} has classes that {str(top / 'train')!r} has not "
            f"({', '.join(map(repr, new[:5]))}): nothing could learn them, so add training images or "
            "remove them."
        )


def _split(
    directory: Path, classes: tuple[str, ...], size: int, channels: int, store: Path, workers: int | None
) -> Split:
    """Reads the class folders under ``directory``, where some may be absent (in test) but none empty."""
    paths: list[str] = []
    labels: list[int] = []
    key = hashlib.sha256(f"{DECODER} {channels} {size}\n".encode())
    for label, name in enumerate(classes):
        if not (directory / name).is_dir():
            continue
        images = listed_images(str(directory / name))
        if not images:
            raise ValueError(
                f"empty class folder: {str(directory / name)!r} holds no image file, so add images or remove it."
            )
        for entry in images:
            with contextlib.suppress(OSError):  # a broken link, named when it comes to decoding
                status = entry.stat()
                key.update(os.fsencode(f"{name}/{entry.name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        paths += [entry.path for entry in images]
        labels += [label] * len(images)
    shape = (len(paths), channels, size, size)
    pixels = _cached_or_decoded(store / f"{key.hexdigest()}.npy", paths, shape, workers, directory)
    return Split(torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64))


def _cached_or_decoded(
    file: Path, paths: list[str], shape: tuple[int, ...], workers: int | None, directory: Path
) -> NDArray[np.uint8]:
    kept = _mapped(file, shape)
    if kept is not None:
        return kept
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _decode_into(file, paths, shape, workers, directory)
    except OSError as error:
        raise ValueError(
            f"the decoded images cannot be kept in {str(file.parent)!r} ({error.strerror or error}): set "
            f"data.cache to a directory with {math.ceil(math.prod(shape) / 2**20)} MiB of room."
        ) from error
    written = _mapped(file, shape)
    assert written is not None, f"{file} was written just now"
    return written


def _mapped(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The cached array, or ``None`` where there is none or it is damaged and has to be made anew."""
    try:
        # Copy on write, because PyTorch wants memory that it may write to; nothing reaches the file.
        array = np.lib.format.open_memmap(file, mode="c")
    except Exception:  # NumPy raises whatever a damaged header brings about
        return None
    return array if array.shape == shape and array.dtype == np.uint8 and array.flags.c_contiguous else None


def _decode_into(file: Path, paths: list[str], shape: tuple[int, ...], workers: int | None, directory: Path) -> None:
    """Decodes into a temporary file and renames it, so that a reader sees all of the cache or none of it."""
    unreadable: list[str] = []
    images = decode_all(paths, shape[1:], workers, f"decoding {directory.name}")
    with replaced(file) as temporary, temporary.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for path, image in zip(paths, images, strict=True):
            if isinstance(image, ValueError):
                unreadable.append(f"{os.path.relpath(path, directory)!r} ({image})")
            elif not unreadable:
                stream.write(image.data)
        if unreadable:
            raise ValueError(
                f"{len(unreadable)} of {len(paths)} image files under {str(directory)!r} cannot be read: "
                f"{'; '.join(unreadable[:3])}{'; ...' if len(unreadable) > 3 else ''}: "
                "repair them or move them away."
            )


def _cache_directory(cache: str | None) -> Path:
    if cache is not None:
        return Path(os.path.abspath(os.path.expanduser(cache)))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seedvote"
