"""Where a run comes from: the code in the working directory, versions and hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from seedvote.files import STEERING
from seedvote.version import __version__

# Of a diff as much is kept; run.json, which holds it, is read whenever anything asks about the run.
LARGEST_DIFF = 2**18  # bytes
PATIENCE = 10  # seconds that git may take


@dataclass(frozen=True)
class Code:
    """The state of the repository that the working directory lies in; all ``None`` outside of one.

    commit: hexadecimal digits. dirty: whether tracked files differ from it. diff: how, as text, cut if it is long; of
    files that git does not track it holds nothing. It is never executed or applied.
    """

    commit: str | None = None
    dirty: bool | None = None
    diff: str | None = None


def code() -> Code:
    """Ask git about the working directory."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return Code()
    # What the repository's own settings may name, a program to compare or convert with, is not started.
    diff = _git("-c", "core.fsmonitor=false", "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD")
    if diff is None:
        return Code(commit.strip())
    return Code(commit.strip(), bool(diff), diff or None)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    others = {name: version(name) for name in ("torch", "torchvision", "numpy")}
    return {"seedvote": __version__, "python": platform.python_version(), **others}


def hardware() -> dict[str, Any]:
    """Say what this machine is: system, processor, cores that may be used, memory in bytes, accelerators."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerators": [torch.cuda.get_device_name(index) for index in range(count)],
    }


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """Return what git prints, cut at ``LARGEST_DIFF`` with a last line that says so; ``None`` if it fails."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        process = subprocess.Popen(
            ["git", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=environment,
        )  # fmt: skip
    except OSError:
        return None
    assert process.stdout is not None
    with process:
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        printed = process.stdout.read(LARGEST_DIFF + 1)
        if len(printed) > LARGEST_DIFF:
            process.kill()
        process.wait()
        watch.cancel()
    if len(printed) > LARGEST_DIFF:
        return f"{_readable(printed[:LARGEST_DIFF])}\n[cut here: the diff is longer than {LARGEST_DIFF} bytes]\n"
    return _readable(printed) if process.returncode == 0 else None


def _readable(printed: bytes) -> str:
    """Return text that any JSON reader takes and that steers no terminal."""
    text = printed.decode("utf-8", errors="backslashreplace")
    return STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
