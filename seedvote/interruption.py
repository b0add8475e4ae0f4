"""Ctrl-C and SIGTERM as a wish to stop, which training fulfils at the next step, once everything is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_received: list[int] = []


def requested() -> int | None:
    """Return the number of the signal that asks this process to stop, or ``None``."""
    return _received[0] if _received else None


@contextmanager
def deferred() -> Iterator[None]:
    """Only note the first Ctrl-C or SIGTERM until the block ends; a second one interrupts at once.

    Signals belong to the main thread; in any other this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        yield
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def asked_to_stop() -> Iterator[None]:
    """Ask the threads of this process to stop, as a signal would, until the block ends."""
    _received.append(signal.SIGTERM)
    try:
        yield
    finally:
        _received.remove(signal.SIGTERM)


def only_told_by_parent() -> None:
    """Make this process note SIGTERM and ignore Ctrl-C, which reaches a whole group of processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: _received.append(number))


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:
        raise KeyboardInterrupt
