"""Files that are either the old ones or the new ones, never half of one."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Room for the mean and standard deviation of a million features, say; a file at these limits takes 1 GiB to read.
LARGEST_JSON = 64 * 2**20
MOST_VALUES = 2_500_000
DEEPEST_JSON = 100
# Characters that steer a terminal, on which much of a run's records is shown; tabs and ends of lines do no harm.
STEERING = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; put it in the place of ``path`` once it is safely on the disk.

    If the block raises, ``path`` is untouched and the temporary file is removed; an ``OSError`` names ``path``.
    """
    try:
        with _replaced(path) as temporary:
            yield temporary
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            # mkstemp makes files that only their owner may read; these are to be shared like any other.
            os.chmod(temporary, 0o666 & ~_umask())
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def remove_temporary(path: Path) -> None:
    """Remove what ``replaced`` left of ``path`` where a process died or the disk failed; nobody may be writing it."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all.

    Raises:
        ValueError: ``read_json`` would not take it: it is too large or deep, or holds what is no number or text.
    """
    content = json_text(value).encode()
    problem = _json_problem(value)
    if problem is not None:
        raise ValueError(f"{path} would hold {problem}, and could not be read again")
    if len(content) > LARGEST_JSON or _values(content) > MOST_VALUES:
        raise ValueError(f"{path} would have {len(content)} bytes: that is more than seedvote reads again")
    write_bytes(path, content)


def json_text(value: Mapping[str, Any]) -> str:
    """Return a JSON object as it is written to files; non-finite numbers are refused."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def read_json(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a JSON object, as strictly as ``write_json`` writes it, and return the bytes that it was read from, too.

    Who needs both must not read twice: another process may put a newer file in the place of this one.

    Raises:
        ValueError: the file is absent, no regular file, larger than ``LARGEST_JSON``, damaged (not JSON in UTF-8,
            nested deeper than ``DEEPEST_JSON``, a key twice, a number that no float holds, text with control characters
            or that neither UTF-8 nor a file name has), or holds something else than an object; the message names it.
    """
    try:
        with opened(path) as file:
            content = file.read(LARGEST_JSON + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > LARGEST_JSON:
        raise ValueError(f"{path} is larger than {LARGEST_JSON} bytes, so seedvote did not write it")
    if _values(content) > MOST_VALUES:
        raise ValueError(f"{path} holds more than {MOST_VALUES} values, so seedvote did not write it")
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_each_key_once)
    # Integers of thousands of digits are a plain ValueError, as our own hook's are.
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ValueError(f"{path} is damaged: it is not valid JSON ({reason[:200]})") from error
    problem = _json_problem(value)
    if problem is not None:
        raise ValueError(f"{path} is damaged: it holds {problem}")
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(value).__name__} where an object was wanted")
    return value, content


def opened(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a regular file for reading bytes; a pipe would block, a device may never end.

    Raises:
        OSError: it is absent or may not be read, or is no regular file.
    """

    def open_without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=open_without_waiting)  # noqa: SIM115, the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))


def refuse_way_out(path: Path, directory: Path) -> None:
    """Refuse a path under a directory that a symbolic link leads out of it, before it is read or written.

    Raises:
        ValueError: it leads out.
    """
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(directory)):
        raise ValueError(
            f"a symbolic link leads {path} out of {directory}, to {real}: nothing is read or written there; copy what "
            "it leads to into its place if you know it"
        )


def digest(path: Path) -> str:
    """Return the SHA-256 of a regular file's bytes as hexadecimal digits."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _values(text: bytes) -> int:
    """Return how many values a JSON text has at most, before it is parsed."""
    return 1 + sum(text.count(mark) for mark in (b",", b"[", b"{"))


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _json_problem(value: Any) -> str | None:
    """Say what in a JSON value would only come up later, or return ``None``."""
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, (dict, list)):
            if depth >= DEEPEST_JSON:
                return f"more than {DEEPEST_JSON} objects and lists inside one another"
            if isinstance(item, dict):
                pending += [(part, depth + 1) for pair in item.items() for part in pair]
            else:
                pending += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            if _is_no_text(item):
                return f"{item[:50]!r}, which is no text"
        elif item is not None and not _has_float(item):
            return "a number that is not finite"
    return None


def _is_no_text(text: str) -> bool:
    if STEERING.search(text):
        return True
    try:
        # Bytes of a file name that are not UTF-8 are text to Python, so that names can be kept.
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return True
    return False


def _has_float(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer above 1.8e308
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    # The rename itself must survive a power failure. Windows cannot open directories.
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
