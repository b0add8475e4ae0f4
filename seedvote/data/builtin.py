"""Data sets that scikit-learn ships and torchvision fetches."""

from __future__ import annotations

import bz2
import contextlib
import difflib
import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seedvote.files import opened
from seedvote.types import Source, Split

DIGITS = tuple(str(digit) for digit in range(10))
# The largest file that torchvision reads whole without knowing it has 47 MiB, which is MNIST's training images.
LARGEST_FILE = 2**26
SILENCE_SECONDS = 30.0  # torchvision waits for a silent server for ever

# The file that each torchvision class looks for first, under its root.
FIRST_FILES = {
    "MNIST": "MNIST/raw/train-images-idx3-ubyte",
    "FashionMNIST": "FashionMNIST/raw/train-images-idx3-ubyte",
    "KMNIST": "KMNIST/raw/train-images-idx3-ubyte",
    "CIFAR10": "cifar-10-batches-py/data_batch_1",
    "CIFAR100": "cifar-100-python/train",
    "SVHN": "train_32x32.mat",
    "USPS": "usps.bz2",
}


def digits() -> Source:
    """Handwritten digits of scikit-learn, ``uint8`` images ``[1797, 1, 8, 8]``, no official test split.

    The pixels, counts from 0 to 16, are scaled to ``round(x * 255 / 16)``. Source: E. Alpaydin, C. Kaynak,
    Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * 255 / 16).astype(np.uint8)[:, np.newaxis]
    labels = bunch.target.astype(np.int64)
    return Source(Split(torch.from_numpy(images), torch.from_numpy(labels)), None, DIGITS)


def torchvision_dataset(dataset: str, root: str, download: bool) -> Source:
    """A data set of torchvision, ``uint8`` images ``[S, channels, height, width]``, official test split.

    dataset: ``MNIST``, ``FashionMNIST``, ``KMNIST``, ``CIFAR10``, ``CIFAR100``, ``SVHN`` (train and test,
    without extra) or ``USPS``. root: the directory that torchvision would be given. Raises ``ValueError``
    for another name and for files that are absent, damaged or cannot be downloaded.
    """
    if dataset not in FIRST_FILES:
        names = {name.upper(): name for name in FIRST_FILES}
        close = difflib.get_close_matches(dataset.upper(), names, n=1)
        hint = f"did you mean {names[close[0]]}?" if close else f"choose one of {', '.join(FIRST_FILES)}."
        raise ValueError(f"data.dataset={dataset!r} is no torchvision data set that seedvote reads: {hint}")
    try:
        with _quiet_and_impatient():
            _refuse_endless(dataset, Path(os.path.expanduser(root)))
            train, test = (_opened(dataset, root, part, download) for part in ("train", "test"))
            train_split, test_split = _split(train), _split(test)
            classes = tuple(getattr(train, "classes", DIGITS))
    except Exception as error:  # torchvision lets through whatever urllib, gzip, pickle and SciPy raise
        raise ValueError(_advice(dataset, root, download, error)) from error
    return Source(train_split, test_split, classes)


def _refuse_endless(dataset: str, directory: Path) -> None:
    """Refuses files that would fill the memory, of the data sets whose files torchvision does not know by digest."""
    unpack = bz2.BZ2File if dataset == "USPS" else contextlib.nullcontext
    for file in directory.glob("usps*.bz2" if dataset == "USPS" else f"{dataset}/raw/*-ubyte"):
        with opened(file) as packed, unpack(packed) as contents:
            size = 0
            while size <= LARGEST_FILE and (piece := contents.read(2**20)):
                size += len(piece)
        if size > LARGEST_FILE:
            raise ValueError(f"{file.name!r} holds more than {LARGEST_FILE} bytes")


def _opened(dataset: str, root: str, part: str, download: bool) -> Any:
    from torchvision import datasets

    constructor = getattr(datasets, dataset)
    if dataset == "SVHN":
        return constructor(root=root, split=part, download=download)
    return constructor(root=root, train=part == "train", download=download)


def _split(opened: Any) -> Split:
    """The decoded arrays of a torchvision object: reading them sample by sample would take minutes."""
    labels = np.asarray(opened.labels if hasattr(opened, "labels") else opened.targets)
    images = _channels_first(np.asarray(opened.data))
    if images.dtype != np.uint8 or labels.shape != (len(images),):
        raise ValueError(f"{len(images)} images of dtype {images.dtype} but labels of shape {labels.shape}")
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    if images.ndim == 3:
        images = images[:, np.newaxis]
    elif images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images)


@contextlib.contextmanager
def _quiet_and_impatient() -> Iterator[None]:
    """Drops what torchvision prints (its progress bar on stderr stays) and gives up on a silent server."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS if before is None else before)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _advice(dataset: str, root: str, download: bool, error: Exception) -> str:
    directory = Path(os.path.abspath(os.path.expanduser(root)))
    first = FIRST_FILES[dataset]
    reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
    if (directory / first).exists():
        return (
            f"the {dataset} files under {str(directory)!r} are incomplete or damaged ({reason}; the first is "
            f"{first!r}): delete them and run again with data.download=true, or copy intact ones there."
        )
    tried = f"and could not be downloaded ({reason})" if download else "and data.download is false"
    return (
        f"{dataset} is not there: looked for {first!r} under {str(directory)!r}, {tried}: run with "
        "data.download=true on a machine with network, copy the files there, or set data.root to their place."
    )
