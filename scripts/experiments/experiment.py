"""What the experiments share: runs trained and compared by the commands that everybody uses, and how results are shown.

Whatever is trained already is read from the disk again, so that an experiment that was cut off goes on.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from seedvote.assembly import stored_data
from seedvote.command import INTERRUPTED
from seedvote.inference import load
from seedvote.logits import split_logits


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return the options that every experiment has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", action="store_true", help="a few seeds and samples, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("experiments"), help="where results and figures go")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="where runs are kept")
    return parser


def compared(checkpoints: Path, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Train what a run lacks, compare its members with their vote, and return what ``comparison.json`` says.

    Raises:
        RuntimeError: a command failed; with what it said.
    """
    place = [f"run={name}", f"checkpoints={checkpoints.resolve()}"]
    command("train", [*overrides, *place])
    command("compare", place)
    values: dict[str, Any] = json.loads((checkpoints / name / "report" / "comparison.json").read_text())
    return values


def command(module: str, overrides: Sequence[str]) -> None:
    """Run one of seedvote's commands in this process; status 1 (a member diverged) is an answer, too.

    A process of its own would begin with importing torch and SciPy, which takes longer than a small run's training.

    Raises:
        RuntimeError: the command failed; with what it said.
        KeyboardInterrupt: it was interrupted.
    """
    arguments, sys.argv = sys.argv, [f"seedvote.{module}", *overrides]
    printed, errors = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(errors):
            importlib.import_module(f"seedvote.{module}").main()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        if end.code not in (0, 1):
            said = errors.getvalue() or printed.getvalue()
            raise RuntimeError(f"seedvote.{module} {' '.join(overrides)}: {said}") from None
    finally:
        sys.argv = arguments


def test_answers(run: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return what a run's members said about the test split, logits ``[M, S, C]``, and the labels ``[S]``."""
    ensemble = load(run, device="cpu")
    data = stored_data(ensemble.run, {}, trust=False)
    return split_logits(ensemble, data.test, "test").logits, data.test.labels.numpy()


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def store(output: Path, name: str, table: str, values: Any, figure: Figure) -> None:
    """Print the table, and write it, the numbers and the figure."""
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.md").write_text(table + "\n")
    (output / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")
    figure.savefig(output / f"{name}.png", dpi=150)
    print(f"{table}\n\nwritten    {output / name}.md, .json and .png")


def points(value: float | None) -> str:
    """Return a fraction in percentage points."""
    return "not defined" if value is None else f"{100 * value:.2f}"


def span(interval: dict[str, Any]) -> str:
    """Return an interval in percentage points."""
    if interval["lower"] is None:
        return "not defined"
    return f"{100 * interval['lower']:+.2f} to {100 * interval['upper']:+.2f}"
