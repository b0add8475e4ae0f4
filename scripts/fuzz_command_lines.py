"""Types invalid command lines: each must end with status 2 and one message, and must write nothing.

    python scripts/fuzz_command_lines.py [--count 1000] [--seed 0] [--processes 30] [--case NUMBER]

The mistakes come from the schemas and from every file under ``conf/``: wrong types, values out of range, unknown names,
keys and choices, malformed overrides, bad combinations, and several of these at once. Most command lines are run in
this process, since starting one takes seconds; every so many are run again as processes of their own, which must
say the same. Exit status 1 if anything else comes out.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import io
import os
import platform
import random
import shlex
import subprocess
import sys
import tempfile
import time
import types
import typing
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mistakes import COMBINATIONS, FLAGS, MALFORMED, OUT_OF_RANGE, VALID, WITH_CHOICE, WRONG_TYPE
from seedvote.config import CONF_DIR
from seedvote.schemas import CompareConfig, PredictConfig, TrainConfig

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = {"train": TrainConfig, "predict": PredictConfig, "compare": CompareConfig}
GROUPS = ("preprocess", "augment", "model", "init", "optimizer", "scheduler", "engine", "data", "experiment")


@dataclasses.dataclass(frozen=True)
class Line:
    """An invalid command line and what kind of mistake it was made with."""

    command: str
    arguments: tuple[str, ...]
    kind: str


def invalid_lines(count: int, seed: int) -> list[Line]:
    """Return so many different invalid command lines: every single mistake once, then several at a time."""
    dice = random.Random(seed)
    single = [line for command in SCHEMAS for line in single_mistakes(command)]
    dice.shuffle(single)
    lines = dict.fromkeys(single[: max(1, count * 3 // 4)])
    while len(lines) < count:
        command = dice.choice(list(SCHEMAS))
        some = [
            line for line in single if line.command == command and line.kind in ("type", "range", "name", "combination")
        ]
        arguments = [argument for line in dice.sample(some, dice.randrange(1, 4)) for argument in line.arguments]
        arguments += dice.sample(VALID[command], dice.randrange(0, 3))
        keys = [argument.partition("=")[0] for argument in arguments]
        if len(set(keys)) == len(keys):  # the last of two would win, and might be right
            dice.shuffle(arguments)
            lines[Line(command, tuple(arguments), "several")] = None
    return list(lines)


def single_mistakes(command: str) -> list[Line]:
    """Return every command line with one mistake."""
    lines = []
    schema = SCHEMAS[command]
    hints = typing.get_type_hints(schema)
    keys = [key for key in hints if key not in GROUPS]
    for key in keys:
        kind, optional = _plain(hints[key])
        values = [*WRONG_TYPE[kind], *([] if optional else ["null"])]
        lines += [Line(command, (f"{key}={value}",), "type") for value in values]
        lines += [Line(command, (f"{key}={value}",), "range") for value in OUT_OF_RANGE.get(key, [])]
        lines += [Line(command, (_misspelt(key, place) + "=1",), "name") for place in range(len(key))]
        lines += [Line(command, (form.format(key=key, value=1),), "malformed") for form in MALFORMED]
    lines += [Line(command, tuple(line.split(" ")), "combination") for line in COMBINATIONS[command]]
    lines += [Line(command, tuple(flag.split(" ")), "flag") for flag in FLAGS]
    if command == "train":
        lines += _group_mistakes()
    return [line for line in lines if not _is_valid(line)]


def _group_mistakes() -> list[Line]:
    lines = [
        Line("train", (f"{key}={value}",), "range")
        for key, values in OUT_OF_RANGE.items()
        if "." in key
        for value in values
    ]
    for choice, mistakes in WITH_CHOICE.items():
        lines += [Line("train", (*choice.split(" "), *mistake.split(" ")), "range") for mistake in mistakes]
    for group in GROUPS:
        files = sorted((Path(CONF_DIR) / group).glob("*.yaml"))
        for file in files:
            lines.append(Line("train", (f"{group}={_misspelt(file.stem, 1)}",), "name"))
            options = OmegaConf.to_container(OmegaConf.load(file))
            assert isinstance(options, dict)
            options = options.get(group, options)
            for key in options if "defaults" not in options else ():
                mistake = f"{group}.{_misspelt(str(key), 2)}=1"
                lines.append(Line("train", (f"{group}={file.stem}", mistake), "name"))
        for value in ("", "x y", "../mlp", "[a,b", "${x}", f"{files[0].stem},{files[-1].stem}x", "{a:"):
            lines.append(Line("train", (f"{group}={value}",), "name"))
    return lines


def _is_valid(line: Line) -> bool:
    """Say whether what was meant as a mistake is none for this key."""
    (argument,) = line.arguments if len(line.arguments) == 1 else ("",)
    key, _, value = argument.partition("=")
    text = key in (
        "checkpoints",
        "run",
        "vote",
        "device",
        "images",
        "arrays",
        "output",
        "rival",
        "tie",
        "on_bad_member",
    )
    return (
        argument in ("", " ", "engine.exact=null")
        or (key in ("seeds", "runs", "vary") and value in ("range(1,3)", "[1]"))
        or (line.kind == "malformed" and text and value in ("1", "a\tb=c"))
        or (line.command != "train" and line.kind == "malformed" and text)
        or argument == "seed=1e3"
    )


def _plain(hint: Any) -> tuple[type, bool]:
    """Return a key's type, and whether it may be null."""
    if isinstance(hint, types.UnionType):
        (inner,) = [argument for argument in typing.get_args(hint) if argument is not types.NoneType]
        return _plain(inner)[0], True
    origin = typing.get_origin(hint) or hint
    return (origin if origin in WRONG_TYPE else list), False


def _misspelt(word: str, place: int) -> str:
    place %= len(word)
    return word[:place] + "q" + word[place:]


def prepare(place: Path) -> None:
    """Put into a directory what valid parts of command lines name: runs, arrays, a folder of pictures."""
    import numpy as np
    from PIL import Image

    for run in ("it", "other"):
        line = Line("train", (f"run={run}", "data.limit=40", "epochs=1", "n_seeds=1", "model.hidden=[4]"), "")
        status, _, said = in_this_process(line, place)
        if status:
            raise RuntimeError(f"no run could be trained to start from: {said}")
    inputs = np.random.default_rng(0).random((40, 5), np.float32)
    np.savez(place / "vectors.npz", inputs=inputs, labels=np.arange(40) % 2)
    (place / "broken.npz").write_bytes((place / "vectors.npz").read_bytes()[:-30])
    (place / "empty").mkdir()
    for name in ("cat", "dog"):
        (place / "photos" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("L", (8, 8), index).save(place / "photos" / name / f"{index}.png")


def in_this_process(line: Line, place: Path) -> tuple[int, str, str]:
    """Run a command line as its entry module would; return exit status, stdout and stderr."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    arguments, directory = sys.argv, Path.cwd()
    sys.argv = [f"seedvote.{line.command}", *line.arguments]
    os.chdir(place)
    status: object = "none: it came back"
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("error")
            importlib.import_module(f"seedvote.{line.command}").main()
    except SystemExit as end:
        status = 0 if end.code is None else end.code
    except BaseException as error:
        status = f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        sys.argv = arguments
        os.chdir(directory)
    return status, out.getvalue(), err.getvalue()  # type: ignore[return-value]


def in_a_process(line: Line, place: Path) -> tuple[int, str, str]:
    """Run a command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", f"seedvote.{line.command}", *line.arguments]
    ended = subprocess.run(
        arguments, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


def problem(outcome: tuple[int, str, str], before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Say what an outcome lacks of exit status 2, one message and nothing written; ``None`` for nothing."""
    status, out, err = outcome
    if status != 2:
        return f"status {status}: {(err or out)[-300:]!r}"
    if not err.startswith("error: ") or err.count("error: ") != 1:
        return f"not one message: {err[:300]!r}"
    if "Traceback" in err or "Traceback" in out:
        return f"a traceback: {err[-300:]!r}"
    lines = err.splitlines()
    if len(lines) > 1 and not (lines[0].endswith(" mistakes") and all(line.startswith("  ") for line in lines[1:])):
        return f"a message of several lines: {err[:400]!r}"
    if any(len(line) > 2000 for line in lines) or not lines[0].removeprefix("error: ").strip():
        return f"a message nobody reads: {err[:200]!r}"
    if out:
        return f"something on stdout: {out[:200]!r}"
    if before != after:
        return f"written: {sorted(set(after.items()) ^ set(before.items()))[:3]}"
    return None


def tree(place: Path) -> dict[str, Any]:
    """Return every path under a directory with its size and time."""
    return {
        str(path): (path.lstat().st_mode, path.is_dir() or (path.lstat().st_size, path.lstat().st_mtime_ns))
        for path in [place, *place.rglob("*")]
    }


def tried(lines: list[Line], place: Path, run: Any = in_this_process) -> dict[Line, str]:
    """Run command lines in a directory; return what was wrong with some."""
    wrong = {}
    for line in lines:
        before = tree(place)
        found = problem(run(line, place), before, tree(place))
        if found is not None:
            wrong[line] = found
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=30, help="how many are also run as processes")
    parser.add_argument("--case", type=int, help="show what this one says")
    options = parser.parse_args()
    importlib.import_module("matplotlib.pyplot")  # which looks for its own cache when it is imported
    os.environ["XDG_CACHE_HOME"] = os.devnull  # decoded pictures have no place to go either
    lines = invalid_lines(options.count, options.seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        prepare(place)
        if options.case is not None:
            print(lines[options.case], *in_this_process(lines[options.case], place), sep="\n")
            return
        wrong = tried(lines, place)
        report(lines, wrong, "in one process")
        typed = [line for line in lines if "\0" not in "".join(line.arguments)]  # which no process can be given
        sample = typed[:: max(1, len(typed) // max(1, options.processes))][: options.processes]
        said: dict[Line, tuple[int, str, str]] = {}

        def remembered(line: Line, place: Path) -> tuple[int, str, str]:
            said[line] = in_a_process(line, place)
            return said[line]

        also_wrong = tried(sample, place, remembered)
        differ = [line for line in sample if in_this_process(line, place) != said[line]]
    report(sample, also_wrong, "as processes of their own")
    print(f"{len(differ)} of {len(sample)} said something else as a process of their own")
    for line in differ:
        print(f"  DIFFERS --case {lines.index(line)}: {line.command} {shlex.join(line.arguments)}")
    print(f"{time.monotonic() - started:.0f} s; seed {options.seed}, Python {platform.python_version()}")
    sys.exit(1 if wrong or also_wrong or differ else 0)


def report(lines: list[Line], wrong: dict[Line, str], where: str) -> None:
    counts, bad = Counter(line.kind for line in lines), Counter(line.kind for line in wrong)
    print(f"{len(lines)} invalid command lines {where}: {len(wrong)} did not end as they should", flush=True)
    for kind, count in sorted(counts.items()):
        print(f"  {kind:12} {count:6} {bad[kind]:6} failed")
    for line, reason in list(wrong.items())[:60]:
        print(f"  FAILED --case {lines.index(line)}: {line.command} {shlex.join(line.arguments)}: {reason}")


if __name__ == "__main__":
    main()
