"""The plain log of a run, ``checkpoints/<run>/train.log``: what was trained how, and what came of it, line by line."""

from __future__ import annotations

import os
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from seedvote.files import STEERING, refuse_way_out
from seedvote.store import Run
from seedvote.types import Elsewhere, Event, Failure, Note, Paused, Progress, TrainedMember


class RunLog:
    """Appends to the log of a run; several processes may do so at once, each entry goes in whole.

    A log that cannot be written is no reason not to train: that is said once.
    """

    def __init__(self, run: Run) -> None:
        """Write to the log of a run; the file is made with the first entry.

        Raises:
            ValueError: a link leads out of the run's directory.
        """
        self._path = run.path / "train.log"
        refuse_way_out(self._path, run.path)
        self._descriptor: int | None = None
        self._failed = False

    def write(self, text: str) -> None:
        """Append an entry with time (UTC) and process; further lines of it are indented."""
        stamp = f"{datetime.now(UTC).isoformat(timespec='seconds')} [{os.getpid()}]"
        safe = STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", text).replace("\n", "\n    ")
        try:
            if self._descriptor is None and not self._failed:
                self._descriptor = self._opened()
            if self._descriptor is not None:
                # One call appends all of it or, on a full disk, the beginning.
                os.write(self._descriptor, f"{stamp} {safe}\n".encode(errors="backslashreplace"))
        except OSError as error:
            print(f"warning: {self._path} cannot be written: {error.strerror or error}", file=sys.stderr)
            self._failed = True
            self.close()

    def event(self, event: Event) -> None:
        """Append what an engine told."""
        self.write(_sentence(event))

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Append every warning that Python shows inside the block."""
        shown = warnings.showwarning

        def show(message: Any, category: Any, *rest: Any, **options: Any) -> None:
            self.write(f"warning: {category.__name__}: {message}")
            shown(message, category, *rest, **options)

        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.showwarning = shown

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        # A pipe in its place would block.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(self._path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError("it is no regular file")
        return descriptor


def _sentence(event: Event) -> str:
    if isinstance(event, Progress):
        record = event.record
        return (
            f"seed {event.seed}: epoch {record.epoch}, train loss {record.train_loss:.6g}, "
            f"validation loss {record.validation_loss:.6g}, validation accuracy {record.validation_accuracy:.6g}, "
            f"learning rate {record.learning_rate:.6g}, {record.seconds:.2f} s"
        )
    if isinstance(event, TrainedMember):
        end = f"diverged, {event.diverged}" if event.diverged else "finished"
        weights = f"weights of epoch {event.kept_epoch}" if event.kept_epoch else "first weights"
        return f"seed {event.seed}: {end}; stored with the {weights}, {event.seconds:.1f} s, engine {event.engine}"
    if isinstance(event, Paused):
        return f"seed {event.seed}: saved after {event.epochs} epochs and {event.steps} steps"
    if isinstance(event, Elsewhere):
        return f"seed {event.seed}: trained by another process"
    if isinstance(event, Failure):
        return f"seed {event.seed}: failed, {event.reason}{'; trying it once more' if event.retried else ''}"
    assert isinstance(event, Note)
    return event.text
