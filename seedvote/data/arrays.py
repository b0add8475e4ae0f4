"""Arrays from a ``.npz`` file, which may come from a stranger."""

from __future__ import annotations

import contextlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seedvote.types import Source, Split

SPLIT_NAMES = ("train_inputs", "train_labels", "test_inputs", "test_labels")
WHOLE_NAMES = ("inputs", "labels")


def arrays(file: str) -> Source:
    """Labelled samples from a ``.npz`` file.

    It holds ``train_inputs, train_labels, test_inputs, test_labels``, or ``inputs, labels`` without an
    official test split. Inputs are vectors ``[S, features]`` or images ``[S, channels, height, width]``
    (``[S, height, width]`` is taken as images of one channel), ``uint8`` (0 to 255) or floats (made
    ``float32``); labels are integers from 0. ``classes``, an array of strings, names the classes; without it
    they are ``'0'`` to the highest training label. Nothing is unpickled, and nothing is allocated before its
    size is known to fit.

    Raises ``ValueError`` for a file that is missing, damaged, too large or lacks an array, and for arrays of
    another kind or shape.
    """
    archive = opened(file)
    halves = [name for name in SPLIT_NAMES if name in archive.headers]
    if halves and any(name in archive.headers for name in WHOLE_NAMES):
        raise ValueError(
            f"{archive.path!r} holds both {halves[0]!r} and {'/'.join(WHOLE_NAMES)}: keep either the four "
            "arrays train_inputs, train_labels, test_inputs, test_labels or the two arrays inputs, labels."
        )
    names = SPLIT_NAMES if halves else WHOLE_NAMES
    contents = archive.read([*names, "classes"] if "classes" in archive.headers else list(names))
    splits = [
        _split(contents[inputs], contents[labels], inputs, labels, archive.path)
        for inputs, labels in zip(names[::2], names[1::2], strict=True)
    ]
    classes = _classes(contents.get("classes"), splits[0].labels, archive.path)
    return Source(splits[0], splits[1] if len(splits) == 2 else None, classes)


@dataclass(frozen=True)
class Archive:
    """A ``.npz`` file whose headers have been read and found sound; no array has been read yet."""

    path: str
    headers: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]

    def read(self, names: list[str]) -> dict[str, NDArray[Any]]:
        """Reads the named arrays; raises ``ValueError`` for one that is missing, of objects, or damaged."""
        for name in names:
            if name not in self.headers:
                there = ", ".join(sorted(self.headers)) or "none"
                raise ValueError(f"{self.path!r} holds no array {name!r} (there are: {there}): save it by that name.")
            _refuse_kind(self.headers[name][1], name, self.path)
        _refuse_size({name: self.headers[name] for name in names}, self.path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                return {name: _read_member(archive, name) for name in names}
        except Exception as error:  # zipfile, zlib and NumPy raise whatever a damaged file brings about
            raise _damaged(self.path, error) from error


def opened(file: str) -> Archive:
    """Reads the array headers of a ``.npz`` file; raises ``ValueError`` if it is missing or damaged."""
    path = os.path.abspath(os.path.expanduser(file))
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path!r}: give the path of a .npz file, as numpy.savez writes it.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            headers = {member.filename.removesuffix(".npy"): _header(archive, member) for member in members}
    except Exception as error:  # as above
        raise _damaged(path, error) from error
    return Archive(path, headers)


def images_or_vectors(values: NDArray[Any], name: str, path: str) -> Tensor:
    """An array of inputs as ``[S, features]`` or ``[S, channels, height, width]``, ``uint8`` or ``float32``.

    Raises ``ValueError`` for other dimensions, channels in the last place, integers other than ``uint8``, NaN
    and infinities.
    """
    if values.ndim == 3:
        values = values[:, np.newaxis]
    if values.ndim == 4 and values.shape[3] in (1, 3) and values.shape[1] not in (1, 3):
        raise ValueError(
            f"{name!r} in {path!r} has shape {values.shape}, which looks like channels in the last place: "
            f"save {name}.transpose(0, 3, 1, 2), so that it becomes [samples, channels, height, width]."
        )
    if values.ndim not in (2, 4):
        raise ValueError(
            f"{name!r} in {path!r} has shape {values.shape}: wanted [samples, features], "
            "[samples, height, width] or [samples, channels, height, width]."
        )
    if values.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(values))
    if values.dtype.kind != "f":
        raise ValueError(
            f"{name!r} in {path!r} is {values.dtype}: wanted uint8 (0 to 255, raw images) or float32; "
            "convert it before you save it."
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    finite = torch.isfinite(tensor).flatten(1).all(1)
    if not finite.all():
        raise ValueError(
            f"{int((~finite).sum())} of {len(finite)} samples of {name!r} in {path!r} hold NaN or infinite "
            "numbers (as float32): remove these samples or fill in the missing values."
        )
    return tensor


def class_indices(values: NDArray[Any], name: str, samples: int, path: str) -> Tensor:
    """An array of labels as ``int64`` ``[S]``; raises ``ValueError`` unless it holds one integer a sample."""
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name!r} in {path!r} is {values.dtype}: wanted integers, class indices from 0.")
    if values.shape != (samples,):
        raise ValueError(
            f"{name!r} in {path!r} has shape {values.shape}, but there are {samples} inputs: wanted one label a sample."
        )
    return torch.from_numpy(values.astype(np.int64))


def _split(inputs: NDArray[Any], labels: NDArray[Any], inputs_name: str, labels_name: str, path: str) -> Split:
    tensor = images_or_vectors(inputs, inputs_name, path)
    return Split(tensor, class_indices(labels, labels_name, len(tensor), path))


def _classes(names: NDArray[Any] | None, labels: Tensor, path: str) -> tuple[str, ...]:
    if names is None:
        highest = int(labels.max()) if len(labels) else -1
        if highest >= len(labels):
            raise ValueError(
                f"the highest training label in {path!r} is {highest} but there are only {len(labels)} "
                "training samples: labels are class indices, counted from 0 without gaps."
            )
        return tuple(str(index) for index in range(highest + 1))
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise ValueError(
            f"'classes' in {path!r} has dtype {names.dtype} and shape {names.shape}: wanted a list of strings."
        )
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names.tolist())


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one member, after comparing the bytes they stand for with those in the archive."""
    with archive.open(member) as stream:
        shape, dtype = _stated(stream)
        stated = stream.tell() + dtype.itemsize * int(np.prod([int(length) for length in shape], dtype=object))
    if any(length < 0 for length in shape) or (not dtype.hasobject and stated != member.file_size):
        raise ValueError(f"{member.filename} states {stated} bytes but has {member.file_size}")
    return shape, dtype


def _stated(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"array format {version} is not 1.0 or 2.0")
    return shape, dtype


def _read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # the checksum is compared at the end of the member
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _refuse_kind(dtype: np.dtype[Any], name: str, path: str) -> None:
    if dtype.hasobject:
        raise ValueError(
            f"{name!r} in {path!r} holds pickled Python objects, which could run code when read: save plain "
            "numbers (and class names as an array of strings, such as numpy.array(['cat', 'dog']))."
        )
    if dtype.kind not in "biufUS" or dtype.itemsize == 0:
        raise ValueError(f"{name!r} in {path!r} has dtype {dtype}: wanted plain numbers or strings.")


def _refuse_size(headers: dict[str, tuple[tuple[int, ...], np.dtype[Any]]], path: str) -> None:
    needed = sum(dtype.itemsize * int(np.prod(shape, dtype=object)) for shape, dtype in headers.values())
    memory = physical_memory()
    if needed > memory:
        raise ValueError(
            f"the arrays in {path!r} take {needed / 2**30:.1f} GiB but there are {memory / 2**30:.1f} GiB of "
            "memory: save fewer or smaller samples."
        )


def physical_memory() -> int:
    """Bytes of memory that this process may have, or 64 GiB where the system does not tell."""
    known = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # the limit of a container, or the word "max"
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(known, default=2**36)


def _damaged(path: str, error: Exception) -> ValueError:
    reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
    return ValueError(f"{path!r} is no .npz file or a damaged one ({reason}): save the arrays with numpy.savez again.")
