"""What is seen of a run while it trains: its log, TensorBoard, and the report of its first step."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from seedvote.board import Board, told_once
from seedvote.events import Elsewhere, Event, Failure, Paused, Progress
from seedvote.inspection import Layer, Signal, first_signals, layers
from seedvote.report import table
from seedvote.run_log import RunLog
from seedvote.store import Run, RunRecord
from seedvote.types import Data, Recipe, TrainedMember


@dataclass
class Monitor:
    """Passes what happens on to the log and, if one was asked for, to TensorBoard."""

    log: RunLog
    board: Board | None

    def introduce(self, seed: int, texts: Mapping[str, str]) -> None:
        """Tell TensorBoard what is trained; see ``seedvote.board.Board.introduce``."""
        try:
            problem = self.board.introduce(seed, texts) if self.board is not None else None
        except OSError as error:
            self.give_up(error)
        else:
            if problem is not None:
                self.log.write(f"warning: {problem}")

    def event(self, event: Event) -> None:
        """Note what an engine told. What cannot be written ends TensorBoard's logs, not the training."""
        self.log.event(event)
        if self.board is None:
            return
        try:
            if isinstance(event, Progress):
                self.board.epoch(event)
            elif isinstance(event, TrainedMember):
                self.board.member(event)
            elif isinstance(event, (Paused, Elsewhere, Failure)):
                self.board.leave(event.seed)
        except OSError as error:
            self.give_up(error)

    def close(self) -> None:
        """Close all logs."""
        try:
            if self.board is not None:
                self.board.close()
        except OSError as error:
            self.give_up(error)
        self.log.close()

    def give_up(self, error: OSError) -> None:
        """Say that TensorBoard's logs end here."""
        self.board = None
        words = f"TensorBoard's logs end here, the disk does not take them: {error.strerror or error}"
        self.log.write(f"warning: {words}")
        print(f"warning: {words}", file=sys.stderr)


@contextmanager
def watched(
    run: Run, recipe: Recipe, data: Data, seeds: Sequence[int], facts: Mapping[str, str], logger: str
) -> Iterator[Monitor]:
    """Open the log of a run, and TensorBoard's if ``logger`` says so, tell them what is trained, and how it ends.

    seeds: those that are trained. facts: what the log's beginning says, by name.

    Raises:
        ValueError: a link leads out of the run's directory.
    """
    log = RunLog(run)
    monitor = Monitor(log, Board(run, recipe, data) if logger == "tensorboard" else None)
    log.write(f"training {len(seeds)} members: seeds {', '.join(map(str, seeds))}")
    # Of members that differ in their seed alone, one stands for all.
    first = [kind[0] for kind in recipe.alike(seeds)]
    tables = {f"layers of seed {seed}": _layers_text(recipe.of(seed), data) for seed in first}
    for name, text in {**facts, **tables}.items():
        gap = "\n" if "\n" in text else " "
        log.write(f"{name}:{gap}{text}")
    try:
        with log.warnings(), told_once():
            for seed, layers_text in zip(first, tables.values(), strict=True):
                monitor.introduce(seed, {**facts, "layers": layers_text})
            yield monitor
    except BaseException as error:
        log.write(f"end: broken off by {type(error).__name__}: {error}")
        raise
    finally:
        monitor.close()


def origin(record: RunRecord) -> dict[str, str]:
    """Say where a command comes from, by name: code, versions and machine, as it would note them in a new run."""
    lines = (record.diff or "").count("\n")
    changes = f", changed (a diff of {lines} lines)" if record.dirty else ""
    return {
        "code": f"commit {record.commit}{changes}" if record.commit else "under no version control",
        "versions": ", ".join(f"{name} {number}" for name, number in record.versions.items()),
        "machine": ", ".join(f"{name} {value}" for name, value in (record.hardware or {}).items()),
    }


def _layers_text(recipe: Recipe, data: Data) -> str:
    try:
        return layers_table(layers(recipe, data))
    except Exception as error:  # a look that a network of somebody's own may not bear is no reason not to train it
        return f"cannot be listed ({type(error).__name__}: {error})"


def layers_table(found: Sequence[Layer]) -> str:
    """Lay out a network's layers with their output for one sample and their parameters."""
    rows = [
        [
            layer.name or "(the network)",
            layer.kind,
            "-" if layer.shape is None else " x ".join(map(str, layer.shape)),
            f"{layer.parameters:,}",
        ]
        for layer in found
    ]
    total = sum(layer.parameters for layer in found)
    return table(["layer", "kind", "output", "parameters"], [*rows, ["in all", "", "", f"{total:,}"]])


def signals_table(signals: Sequence[Signal]) -> str:
    """Lay out what passes through each layer, and say below how many layers there is something wrong with."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}"

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    rows = [
        [
            signal.name or "(the network)", signal.kind, number(signal.mean), number(signal.deviation),
            share(signal.zeros), share(signal.saturated), number(signal.gradient), number(signal.weight_gradient),
            ", ".join(signal.problems),
        ]
        for signal in signals
    ]  # fmt: skip
    header = ["layer", "kind", "mean", "SD", "zeros", "saturated", "gradient", "of weights", "flag"]
    flagged = sum(bool(signal.problems) for signal in signals)
    verdict = f"{flagged} of {len(signals)} layers flagged" if flagged else "no layer is flagged"
    return f"{table(header, rows)}\n{verdict}"


def diagnosis(recipe: Recipe, data: Data, seeds: Sequence[int], device: torch.device) -> str:
    """Return the report of a member's first step as text; of one member of each variant, if there are variants.

    Raises:
        ValueError: the network fails on a whole batch.
    """
    reports = []
    for seed in (kind[0] for kind in recipe.alike(seeds)):
        try:
            signals = first_signals(recipe.of(seed), data, seed, device)
        except RuntimeError as error:
            raise ValueError(f"diagnose=true: the network fails on its first batch: {error}") from error
        title = f"first step of seed {seed}: outputs of each layer, and the loss's gradient there"
        reports.append(f"{title}\n{signals_table(signals)}")
    return "\n".join(reports)
