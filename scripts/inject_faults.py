"""Let every single operation of a training run on the disk fail, and see that nothing is lost and all goes on.

An undisturbed run, which saves after each step, is trained and its operations that change the disk are counted:
mkdir, every opening of a file for writing (temporary files and locks too), every write, chmod, fsync (of files and
directories), rename and unlink. Then training is run once for each of them with that operation failing: it alone
(`once`), it and all later ones, as on a full disk (`from then on`), or, for writes, after half of the bytes (`half`).
The error is one of ENOSPC, EIO, EROFS and EACCES in turn, or with --all-errors each of them. After each run

- everything on the disk must be whole, and each file of weights that of the undisturbed run;
- training has ended with status 0 and all members, or with status 1 or 2 and a sentence that names a path and the
  error; never with a traceback;
- the same command, without faults, must end with the weights of the undisturbed run, byte for byte.

How the operations are found: `open` and `os.open` for writing, `os.mkdir`, `os.rename`, `os.replace`, `os.unlink`,
`os.rmdir`, `os.chmod`, `os.fsync` and `os.write` are replaced in the process that trains, for all code in it, as far
as they touch the run's directory or the directory of temporary files; files opened for writing get a raw layer whose
every write is counted. That nothing is left out is checked by an audit hook: Python reports each opening, renaming,
... of a file to it, whoever asks, and one that was not counted ends the run. With engine=process the faults fall either
on the parent or on its only worker, which counts for itself.

    python scripts/inject_faults.py --engines sequential fused process worker

As root, training is also run on real file systems that are full: of one page of memory more each time, until all fits.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import errno
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hydra

from kill_training import sound, weights
from seedvote import train
from seedvote.config import CONF_DIR

RECIPE = (
    "data=digits", "data.limit=60", "epochs=2", "batch_size=32", "model.hidden=[16]", "model.dropout=0.2",
    "n_seeds=2", "run=it", "device=cpu", "threads=1", "save_every=0",
)  # fmt: skip
ENGINES = {
    "sequential": ("engine=sequential",),
    "fused": ("engine=fused", "+engine.workers=1"),
    "process": ("engine=process", "engine.workers=1"),
    "worker": ("engine=process", "engine.workers=1"),
}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)
FLAVOURS = ("once", "from then on", "half")
VARIABLE = "SEEDVOTE_INJECTED_FAULT"  # tells workers, which are started afresh, what is to fail
PAGE, MOST_PAGES = os.sysconf("SC_PAGESIZE"), 200


@dataclass(frozen=True)
class Fault:
    """What fails: the operation of a number (from 1; 0 for none), with an error, in one of ``FLAVOURS``."""

    number: int
    error: int
    flavour: str


@dataclass(frozen=True)
class Ended:
    """How training ended. operations: what changed the disk, up to the fault and after it."""

    status: int
    text: str
    operations: list[str]


class Disk:
    """Counts the operations of this process under a directory, and lets one fail; see the module's docstring."""

    def __init__(self, root: Path, log: Path, fault: Fault) -> None:
        """Note each operation in ``log``, which lies elsewhere."""
        self.root, self.fault, self.count = f"{root}{os.sep}", fault, 0
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.note = os.write
        self.announced = False

    def step(self, name: str, path: str) -> bool:
        """Count an operation; return whether it is to fail."""
        self.count += 1
        fails = self.count == self.fault.number or (
            self.fault.flavour == "from then on" and self.count > self.fault.number > 0
        )
        self.note(self.log, f"{name} {path.removeprefix(self.root)}{' FAILS' if fails else ''}\n".encode())
        return fails

    def error(self, path: str | None) -> OSError:
        """Return the error as the system would raise it: with the path, where the call was given one."""
        words = os.strerror(self.fault.error)
        return OSError(self.fault.error, words, path) if path else OSError(self.fault.error, words)

    def place(self, path: Any) -> str | None:
        """Return the path, or that of a descriptor, if it lies under the directory."""
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return None
        path = os.path.abspath(os.fsdecode(path))
        return path if f"{path}{os.sep}".startswith(self.root) else None

    def install(self) -> None:
        """Stand between this process and the disk until it ends."""
        for name in ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "chmod", "fsync"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        own_open, own_write, own_file = os.open, os.write, io.open

        def open_descriptor(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            place = self.place(path) if writes(flags) and options.get("dir_fd") is None else None
            if place is not None and self.step("open", place):
                raise self.error(place)
            with self._expected():
                return own_open(path, flags, *rest, **options)

        def write_descriptor(descriptor: int, content: Any) -> int:
            place = self.place(descriptor)
            if place is not None and self.step("write", place):
                if self.fault.flavour == "half":
                    own_write(descriptor, bytes(content)[: len(content) // 2])
                raise self.error(None)
            return own_write(descriptor, content)

        def open_file(
            file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
            newline: Any = None, closefd: bool = True, opener: Any = None,
        ) -> Any:  # fmt: skip
            place = self.place(file) if set(mode) & set("wax+") else None
            if place is None:
                return own_file(file, mode, buffering, encoding, errors, newline, closefd, opener)
            changes = not mode.startswith("r")  # "rb+" neither makes nor empties a file
            if changes and not isinstance(file, int) and self.step("open", place):
                raise self.error(place)
            with self._expected():
                # Readable too, as NumPy writes past Python's layers where it is given a plain BufferedWriter.
                raw = self._raw(file, mode.replace("b", "").replace("t", "").replace("+", "") + "+", closefd, opener)
            buffered = io.BufferedRandom(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        os.open, os.write = open_descriptor, write_descriptor  # type: ignore[assignment]
        io.open = builtins.open = open_file  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def _counted(self, name: str, own: Any) -> Any:
        def call(path: Any, *rest: Any, **options: Any) -> Any:
            # With dir_fd, as shutil.rmtree does it, the path is relative to what is open already.
            folder = options.get("dir_fd")
            whole = path if folder is None else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
            place = self.place(whole)
            if place is not None and self.step(name, place):
                raise self.error(None if isinstance(path, int) else place)
            with self._expected():
                return own(path, *rest, **options)

        return call

    def _raw(self, *arguments: Any) -> io.FileIO:
        disk = self

        class Raw(io.FileIO):
            def write(self, content: Any) -> int:
                place = disk.place(self.fileno())
                assert place is not None
                if disk.step("write", place):
                    if disk.fault.flavour == "half":
                        super().write(bytes(content)[: len(content) // 2])
                    raise disk.error(None)
                return super().write(content)

        return Raw(*arguments)

    @contextlib.contextmanager
    def _expected(self) -> Iterator[None]:
        before, self.announced = self.announced, True
        try:
            yield
        finally:
            self.announced = before

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        changing = {
            "os.mkdir",
            "os.rmdir",
            "os.remove",
            "os.rename",
            "os.chmod",
            "os.truncate",
            "os.link",
            "os.symlink",
        }
        if self.announced or (event != "open" and event not in changing):
            return
        path, *_, last = arguments
        if event == "open" and not writes(last):
            return
        if path is not None and self.place(path) is not None:
            self.note(2, f"Traceback: {event} of {path} was not counted\n".encode())
            os._exit(98)


def writes(flags: int) -> bool:
    """Say whether a file is opened to be made, emptied or written to."""
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def main() -> None:
    """Let every operation of each engine fail and print what was found; end with status 1 at the first failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["sequential", "fused"])
    parser.add_argument("--every", type=int, default=1, help="take every k-th operation only")
    parser.add_argument("--first", type=int, default=1, help="the first operation that fails")
    parser.add_argument("--all-errors", action="store_true", help="each error for each operation, not one in turn")
    parser.add_argument("--no-mount", action="store_true", help="leave the real full file systems out")
    arguments = parser.parse_args()
    print("| engine | fault | operations | runs with status 0, 1, 2 | always loadable | continued to same weights |")
    print("|---|---|---|---|---|---|", flush=True)
    warm_up()
    try:
        for engine in arguments.engines:
            with tempfile.TemporaryDirectory() as place:
                for row in storm(engine, Path(place), arguments.every, arguments.first, arguments.all_errors):
                    print(row, flush=True)
        if not arguments.no_mount:
            print(real_full_disks())
    except AssertionError as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(1)


def storm(engine: str, place: Path, every: int = 1, first: int = 1, all_errors: bool = False) -> Iterator[str]:
    """Let an engine's operations fail; yield a row of the table for each flavour.

    Raises:
        AssertionError: something was not as promised; it says how to repeat it.
    """
    whole = attempt(engine, place / "disk" / "whole", Fault(0, 0, "once"))
    assert whole.status == 0, whole.text
    expected = weights(place / "disk" / "whole" / "it")
    assert len(expected) == 2, "the undisturbed run is not complete"
    operations = whole.operations
    for flavour in FLAVOURS:
        statuses: Counter[int] = Counter()
        numbers = list(range(first, len(operations) + 1))
        if flavour == "half":
            numbers = [number for number in numbers if operations[number - 1].startswith("write")]
        for number in numbers[::every]:
            errors = ERRORS if all_errors else (ERRORS[number % len(ERRORS)],)
            for error in errors:
                fault = Fault(number, error, flavour)
                try:
                    statuses[one_fault(engine, place / "disk" / "faulty", fault, expected)] += 1
                except (AssertionError, ValueError, OSError) as problem:
                    raise AssertionError(
                        f"engine {engine}, operation {number} ({operations[number - 1]}), {errno.errorcode[error]}, "
                        f"{flavour}: {problem}\nagain: python scripts/inject_faults.py --engines {engine} "
                        f"--first {number} --every {len(operations)} --all-errors --no-mount"
                    ) from problem
        counts = ", ".join(f"{statuses[status]:,}" for status in (0, 1, 2))
        runs = statuses.total()
        share = f"{len(numbers[::every])} of {len(operations)}"
        yield f"| {engine} | {flavour} | {share} | {counts} | {runs} of {runs} | {runs} of {runs} |"


def one_fault(engine: str, place: Path, fault: Fault, expected: dict[str, bytes]) -> int:
    """Train with a fault and go on without it; return the status that the fault led to."""
    shutil.rmtree(place, ignore_errors=True)
    disturbed = attempt(engine, place, fault)
    assert any(line.endswith("FAILS") for line in disturbed.operations), "the operation did not come up"
    check(place, disturbed, expected, os.strerror(fault.error))
    finished = sound(place / "it", {}) if (place / "it").exists() else {}
    again = attempt(engine, place, Fault(0, 0, "once"))
    assert again.status == 0, f"it does not go on: {again.text}"
    sound(place / "it", finished)
    assert weights(place / "it") == expected, "the final weights are others"
    left = [path for path in place.rglob("*") if path.name.endswith(".tmp") or path.name.startswith("state.")]
    left = [path for path in left if f"its {path.name} may be removed" not in disturbed.text]
    assert not left, f"left behind: {left}"
    return disturbed.status


def check(place: Path, ended: Ended, expected: dict[str, bytes], words: str) -> None:
    """Check what training said and left."""
    assert "Traceback" not in ended.text, ended.text
    assert ended.status in (0, 1, 2), f"status {ended.status}: {ended.text}"
    for name, content in weights(place / "it").items():
        assert expected[name] == content, f"the weights of {name} are not those of the undisturbed run"
    if ended.status == 0:
        assert weights(place / "it") == expected, "status 0, and not all members are there"
        return
    lines = [line for line in ended.text.splitlines() if words in line]
    assert lines and all(f"{place.parent}{os.sep}" in line for line in lines), f"no path or no error: {ended.text}"
    if ended.status == 1:
        assert "the same command goes on from there" in ended.text, f"it is not said what is safe: {ended.text}"
    else:
        assert len(lines) == 1 and lines[0].startswith("error: "), f"more than one sentence: {ended.text}"
        assert not weights(place / "it"), "status 2, and something was done"


def attempt(engine: str, place: Path, fault: Fault) -> Ended:
    """Train into a directory in a fork of this process, with a fault of the disk that the directory lies on."""
    disk, beside = place.parent, place.parent.parent
    (disk / "temporary").mkdir(parents=True, exist_ok=True)
    config = composed(engine)
    said, log = beside / "said.txt", beside / "operations.txt"
    log.write_text("")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 99
        try:
            output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            # Whoever imports this, a test say, may have put others in their places.
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            os.environ["TMPDIR"] = tempfile.tempdir = str(disk / "temporary")
            if engine == "worker":
                os.environ[VARIABLE] = json.dumps([str(disk), str(log), asdict(fault)])
            else:
                Disk(disk, log, fault).install()
            sys.argv = ["seedvote.train", *RECIPE, *ENGINES[engine], f"checkpoints={place}"]
            # Hydra takes most of the time of so small a run and writes nothing: what it composes is known already.
            config.checkpoints = str(place)
            hydra.main = lambda **_: lambda task: lambda: task(config)
            train.main()
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, how = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(how), said.read_text(), log.read_text().splitlines())


def warm_up() -> None:
    """Train once in this process, so that its forks have everything imported."""
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        sys.argv = ["seedvote.train", *RECIPE, *ENGINES["fused"], f"checkpoints={place}"]
        with contextlib.suppress(SystemExit):
            train.main()


@functools.cache
def composed(engine: str) -> Any:
    """Return the config of an engine's command line, as Hydra makes it; ``warm_up`` comes first."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        return hydra.compose("train", [*RECIPE, *ENGINES[engine]])


def real_full_disks() -> str:
    """Train on file systems of one page more each time, until all fits; make room each time, and go on.

    Returns:
        A row of the table, or why there is none.
    """
    with tempfile.TemporaryDirectory() as place:
        disk = Path(place) / "disk"
        disk.mkdir()
        whole = attempt("sequential", Path(place) / "other" / "whole", Fault(0, 0, "once"))
        expected = weights(Path(place) / "other" / "whole" / "it")
        assert whole.status == 0 and len(expected) == 2, whole.text
        statuses: Counter[int] = Counter()
        for pages in range(2, MOST_PAGES):
            made = ["mount", "-t", "tmpfs", "-o", f"size={pages * PAGE}", "tmpfs", str(disk)]
            try:
                subprocess.run(made, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                return f"real full file systems: left out, since none can be mounted ({error})"
            try:
                status = one_full_disk(disk, expected)
            except (AssertionError, ValueError, OSError) as problem:
                raise AssertionError(f"a file system of {pages} pages: {problem}") from problem
            finally:
                subprocess.run(["umount", str(disk)], check=True)
            statuses[status] += 1
            if status == 0:
                break
        assert statuses[0] == 1, "training fits no file system"
    counts, runs = ", ".join(str(statuses[status]) for status in (0, 1, 2)), statuses.total()
    return (
        f"| sequential | real file systems of 2 to {pages} pages | | {counts} | {runs} of {runs} | {runs} of {runs} |"
    )


def one_full_disk(disk: Path, expected: dict[str, bytes]) -> int:
    """Train on a small file system, make it large and go on; return the first status."""
    place = disk / "run"
    # The file system is what fails, and nothing is counted.
    full = attempt("sequential", place, Fault(0, 0, "once"))
    check(place, full, expected, os.strerror(errno.ENOSPC))
    finished = sound(place / "it", {}) if (place / "it").exists() else {}
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    again = attempt("sequential", place, Fault(0, 0, "once"))
    assert again.status == 0, f"it does not go on: {again.text}"
    sound(place / "it", finished)
    assert weights(place / "it") == expected, "the final weights are others"
    return full.status


if __name__ == "__mp_main__" and VARIABLE in os.environ:
    own_root, own_log, own_fault = json.loads(os.environ[VARIABLE])
    Disk(Path(own_root), Path(own_log), Fault(**own_fault)).install()
if __name__ == "__main__":
    main()
