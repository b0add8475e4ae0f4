"""Finds image files and decodes them, the same way for training and for prediction."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from seedvote.files import opened

Pixels = NDArray[np.uint8]

BUFFERED_BYTES = 2**26  # decoded images that wait for their turn while a folder is read
MODES = {1: "L", 3: "RGB"}
# Images with more pixels than this are decoded one at a time, so that a folder of them does not fill the memory.
MANY_PIXELS = 2**24
_one_large_image = threading.Lock()
# Formats that Pillow lists but cannot decode by itself: it would start another program for them, or fail.
REFUSED_FORMATS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})


def image_extensions() -> frozenset[str]:
    """File name extensions of the formats that Pillow decodes by itself, in lower case with their dot."""
    readable = _readable_formats()
    return frozenset(ending.lower() for ending, kind in Image.registered_extensions().items() if kind in readable)


def listed_images(directory: str) -> list[os.DirEntry[str]]:
    """The visible image files right in a directory, sorted by name.

    Only regular files and links to them: a pipe or a device would block or never end. A broken link is
    listed, so that it is reported as unreadable and not silently left out.
    """
    endings = image_extensions()
    with os.scandir(directory) as entries:
        images = [
            entry
            for entry in entries
            if not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in endings
            and _is_regular_or_broken(entry)
        ]
    return sorted(images, key=lambda entry: entry.name)


def decode_image(path: str | os.PathLike[str], channels: int, height: int, width: int) -> Pixels:
    """Decodes one image file to ``[channels, height, width]``, grey (1) or RGB (3).

    The EXIF orientation is applied, the first frame of an animation is taken, 16-bit grey is scaled to 8
    bits, and the image is resized (not cropped) by antialiased bilinear interpolation. Raises ``ValueError``
    with the reason where the file cannot be read, also where it claims more pixels than Pillow's limit for
    decompression bombs.

    Memory: 20 bytes a pixel at most, so 0.4 GB for each thread and 1.8 GB for the largest image, since of images
    above ``MANY_PIXELS`` one is decoded at a time.
    """
    try:
        with opened(path) as file, Image.open(file, formats=_formats_to_try(path)) as image:
            pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:
                raise ValueError(f"{image.width} x {image.height} pixels are more than the limit of {limit}")
            with _one_large_image if pixels > MANY_PIXELS else contextlib.nullcontext():
                return _decoded(image, channels, height, width)
    except UnidentifiedImageError as error:
        raise ValueError("it is no image, or none of a format that Pillow decodes") from error
    except Exception as error:  # Pillow's decoders raise whatever a damaged file brings about
        raise ValueError((" ".join(str(error).split()) or type(error).__name__)[:200]) from error


def decode_all(
    paths: Sequence[str], shape: tuple[int, ...], workers: int | None, title: str
) -> Iterator[Pixels | ValueError]:
    """Decodes files in parallel threads and yields each image, or what was wrong with it, in the given order.

    shape: ``(channels, height, width)``. Shows a progress bar if stderr is a terminal. workers: number of
    threads, ``None`` for one a core.
    """
    channels, height, width = shape
    threads = workers or os.cpu_count() or 1
    step = max(4 * threads, min(512, BUFFERED_BYTES // (channels * height * width)))

    def attempt(path: str) -> Pixels | ValueError:
        try:
            return decode_image(path, channels, height, width)
        except ValueError as error:
            return error

    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(paths), desc=title, unit="image", disable=None) as progress,
    ):
        for start in range(0, len(paths), step):
            with _only_bombs_count():
                images = list(pool.map(attempt, paths[start : start + step]))
            progress.update(len(images))
            yield from images


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name in Image.OPEN and name not in REFUSED_FORMATS)


def _formats_to_try(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The format that the file's name promises, then all others: many an image is not what it is called."""
    promised = Image.registered_extensions().get(os.path.splitext(path)[1].lower())
    readable = _readable_formats()
    return (promised, *readable) if promised in readable else readable


def _is_regular_or_broken(entry: os.DirEntry[str]) -> bool:
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True


def _decoded(image: Image.Image, channels: int, height: int, width: int) -> Pixels:
    ImageOps.exif_transpose(image, in_place=True)
    mode, size = MODES[channels], (width, height)
    resized = _eight_bit(image, image.format).convert(mode).resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(resized, dtype=np.uint8).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _eight_bit(image: Image.Image, file_format: str | None) -> Image.Image:
    """Scales 16-bit grey to 0..255, where Pillow's own conversion would cut everything above 255 off."""
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format == "PNG"):
        levels = (np.asarray(image).astype(np.int32) + 128) // 257  # of whole numbers, the rounded quotient
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} (32 bits) have no stated range: save 8 or 16 bits")
    return image


@contextlib.contextmanager
def _only_bombs_count() -> Iterator[None]:
    """Drops warnings about harmless oddities of a file; a suspected decompression bomb becomes an error.

    Warning filters belong to the process, so they are set around the threads and not in them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
