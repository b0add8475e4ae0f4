"""Feeds damaged and made-up files to every reader: only the documented error may come out.

    python scripts/fuzz_readers.py [--cases 2000] [--seed 0] [--reader NAME] [--case NUMBER]

Each case is a valid file with seeded changes (``mutations.py``). It counts as ``read`` (the damage fell on bytes
that carry no meaning, or left another valid file) or as ``refused``: a ``ValueError`` of one line that names the file.
Anything else is a failure and is shown with what repeats it: another exception, a message without the file's
name, more than 20 seconds, the end of the process, a file written that should not be. Exit status 1 if there is one.

Each reader runs in a process of its own that may take 3 GiB more memory than it has when it starts.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import platform
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from PIL import Image

from readers import Reader, Readers

MEMORY = 3 * 2**30
SECONDS = 20
ANSWERS = ("read", "refused")


def outcome(reader: Reader, readers_seed: int, case: int) -> str:
    """Run one case; return ``read``, ``refused``, or what was wrong."""
    dice = random.Random(f"{readers_seed}/{reader.name}/{case}")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "run"
        place.mkdir()
        reader.prepare(place, dice)
        before = tree(Path(directory))
        started = time.monotonic()
        try:
            with limited_time(), contextlib.redirect_stderr(io.StringIO()) as said, warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                reader.read(place)
            found = "read"
        except ValueError as error:
            message = str(error)
            found = (
                "refused"
                if reader.named in message and "\n" not in message
                else f"ValueError without its place: {message!r}"
            )
            if type(error) is not ValueError:
                found = f"{type(error).__name__}: {error}"
        except BaseException as error:
            found = f"{type(error).__name__}: {str(error)[:200]}"
        if time.monotonic() - started > SECONDS:
            found = f"took {time.monotonic() - started:.0f} s"
        if said.getvalue():
            found = f"wrote to stderr: {said.getvalue()[:200]!r}"
        after = tree(Path(directory))
        if after != before and found in ANSWERS:
            found = f"wrote {sorted(set(after) ^ set(before))[:3]}"
        return found


def run_cases(reader: Reader, seed: int, cases: range) -> tuple[Counter[str], dict[int, str]]:
    """Run cases of one reader; return the counts and the failures by case."""
    counts: Counter[str] = Counter()
    failures: dict[int, str] = {}
    for case in cases:
        found = outcome(reader, seed, case)
        counts[found if found in ANSWERS else "failed"] += 1
        if found not in ANSWERS:
            failures[case] = found
    return counts, failures


def make_run(place: Path, *more: str) -> Path:
    """Train a member for an epoch on a few digits, in this process; more arguments win over these."""
    arguments = ["data.limit=40", "epochs=1", "n_seeds=1", "model.hidden=[4]", "run=run", f"checkpoints={place}", *more]
    before, sys.argv = sys.argv, ["seedvote.train", *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module("seedvote.train").main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError("no member could be trained to start from") from end
    finally:
        sys.argv = before
    return place / "run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", help="only this one")
    parser.add_argument("--case", type=int, help="only this one, with whatever it raises")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        readers = [
            reader for reader in Readers(make_run(Path(directory))).all() if options.reader in (None, reader.name)
        ]
        if options.case is not None:
            for reader in readers:
                print(reader.name, outcome(reader, options.seed, options.case))
            return
        print(f"{'reader':20} {'cases':>7} {'read':>7} {'refused':>8} {'failed':>7} {'seconds':>8} {'peak MiB':>9}")
        results = [_in_processes(reader, options.seed, options.cases) for reader in readers]
    failed = sum(results)
    names = ("torch", "numpy", "PIL", "safetensors")
    versions = ", ".join(f"{name} {importlib.import_module(name).__version__}" for name in names)
    print(f"{options.cases * len(readers)} cases, {failed} failed; seed {options.seed}")
    print(f"Python {platform.python_version()}, {versions}")
    sys.exit(1 if failed else 0)


def _in_processes(reader: Reader, seed: int, cases: int) -> int:
    """Run a reader's cases where they can do no harm, print a line of the table and return how many failed."""
    context = multiprocessing.get_context("fork")
    started, counts, failures, peak = time.monotonic(), Counter[str](), dict[int, str](), 0.0
    first = 0
    while first < cases:  # a case that ends its process does not end the others
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(reader, seed, range(first, cases), sender))
        process.start()
        sender.close()
        with contextlib.suppress(EOFError):
            while first < cases:
                found, taken = receiver.recv()
                counts[found if found in ANSWERS else "failed"] += 1
                if found not in ANSWERS:
                    failures[first] = found
                first, peak = first + 1, max(peak, taken)
        process.join()
        if first < cases:
            failures[first] = f"the process ended with {process.exitcode}"
            counts["failed"] += 1
            first += 1
    seconds = time.monotonic() - started
    row = f"{cases:7} {counts['read']:7} {counts['refused']:8} {counts['failed']:7} {seconds:8.0f} {peak:9.0f}"
    print(f"{reader.name:20} {row}", flush=True)
    for case, reason in list(failures.items())[:10]:
        print(f"  FAILED --reader {reader.name!r} --seed {seed} --case {case}: {reason[:300]}", flush=True)
    return counts["failed"]


def _child(reader: Reader, seed: int, cases: range, sender: Connection) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    for case in cases:
        found = outcome(reader, seed, case)
        sender.send((found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Break off what takes more than ``SECONDS``."""

    def late(*_: object) -> None:
        raise KeyboardInterrupt(f"took more than {SECONDS} s")  # no reader may catch it

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tree(top: Path) -> dict[str, tuple[int, int]]:
    """Return the mode and time of change of everything below a directory."""
    found = {}
    for directory, folders, files in os.walk(top):
        if "cache" in folders and Path(directory) == top:  # the only place that may be written to
            folders.remove("cache")
        for name in [*folders, *files]:
            status = os.lstat(os.path.join(directory, name))
            found[os.path.join(directory, name)] = (status.st_mode, status.st_mtime_ns)
    return found


if __name__ == "__main__":
    main()
