"""Reads ``.npz`` files, which may come from a stranger."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# NumPy itself reads no longer header than 10,000 characters, but only looks at the length after reading all of it.
LARGEST_HEADER = 2**16
# Splitting copies the samples, and other floats become float32 by way of another copy.
COPIES = 2


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
        except MemoryError as error:
            raise ValueError(
                f"there is too little memory for the arrays in {self.path!r}: save fewer or smaller samples."
            ) from error
        except Exception as error:  # zipfile, zlib and NumPy raise whatever a damaged file brings about
            raise _damaged(self.path, error) from error


def opened(file: str) -> Archive:
    """Reads the array headers of a ``.npz`` file; raises ``ValueError`` if it is missing or damaged."""
    path = os.path.abspath(os.path.expanduser(file))
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path!r}: give the path of a .npz file, as numpy.savez writes it.")
    try:
        # Of an old header's oddities NumPy warns on stderr, which says nothing to whoever owns the file.
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            headers = {member.filename.removesuffix(".npy"): _header(archive, member) for member in members}
    except Exception as error:  # as above
        raise _damaged(path, error) from error
    return Archive(path, headers)


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one member, after comparing the bytes they stand for with those in the archive."""
    with archive.open(member) as compressed:
        # A header may claim 4 GiB of its own, in a file of a few MiB.
        stream = io.BytesIO(compressed.read(LARGEST_HEADER))
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
    stated = sum(dtype.itemsize * int(np.prod(shape, dtype=object)) for shape, dtype in headers.values())
    memory = physical_memory()
    if COPIES * stated > memory:
        raise ValueError(
            f"the arrays in {path!r} have {stated / 2**30:.1f} GiB and splitting them takes {COPIES} times as much, "
            f"but there are {memory / 2**30:.1f} GiB of memory: save fewer or smaller samples."
        )


def physical_memory() -> int:
    """Bytes of memory that this process may have, or 64 GiB where the system does not tell."""
    known = []
    if sys.platform != "win32":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        known += [limit] if limit != resource.RLIM_INFINITY else []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # the limit of a container, or the word "max"
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(known, default=2**36)


def _damaged(path: str, error: Exception) -> ValueError:
    reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
    return ValueError(f"{path!r} is no .npz file or a damaged one ({reason}): save the arrays with numpy.savez again.")
