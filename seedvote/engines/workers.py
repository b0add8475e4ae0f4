"""A crew of worker processes that train members, and what happens when one of them dies.

Starting a worker costs seconds (it imports torch), so workers are kept for the whole run and take one task after
another. The data lies in files that all workers map, so it is in memory once.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from seedvote.engines.keeping import Task, Trainer, train_whole_task
from seedvote.events import Event, Failure, Keeper, Note, Progress
from seedvote.interruption import only_told_by_parent, requested
from seedvote.matmul import precision, set_precision
from seedvote.training import on_device
from seedvote.types import Data, Recipe, Split, TrainedMember

SPAWN = multiprocessing.get_context("spawn")
# Read by OpenMP and malloc when a process starts. Waiting threads must not spin on a core that another worker
# needs; and memory that a step frees is needed again by the next step, so malloc must not give it back in between.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
}


ATTENTION = 0.2  # seconds after which a wish to stop is noticed at the latest


def train_in_processes(
    tasks: Sequence[Task],
    trainer: Trainer,
    workers: int,
    recipe: Recipe,
    data: Data,
    device: torch.device,
    keeper: Keeper,
) -> Iterator[Event]:
    """Spread tasks over workers, each with as many threads as this process has.

    A worker that dies is replaced, and its task is tried once more; a task that raises is not. A wish to stop is
    passed on to the workers.
    """
    with ExitStack() as cleanup:
        files = cleanup.enter_context(_mapped_files(data))
        crew = _Crew(trainer, recipe, files, keeper, _devices(device))
        cleanup.callback(crew.dismiss)
        yield from crew.train(tasks, min(workers, len(tasks)))


def worker_count(device: torch.device) -> int:
    """Return how many workers this machine has room for: one a GPU, or one for each core that the threads leave."""
    if device.type == "cpu":
        return max(1, len(os.sched_getaffinity(0)) // torch.get_num_threads())
    return len(_devices(device))


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    place: int
    task: tuple[int, ...]
    done: set[int] = field(default_factory=set)

    @property
    def undone(self) -> tuple[int, ...]:
        return tuple(seed for seed in self.task if seed not in self.done)


class _Crew:
    """The workers of one run, and who works on what."""

    def __init__(self, trainer: Trainer, recipe: Recipe, files: _DataFiles, keeper: Keeper, devices: list[str]) -> None:
        self._work = (trainer, recipe, files, keeper, torch.get_num_threads(), precision())
        self._devices = devices
        self._workers: dict[Connection, _Worker] = {}
        self._stopping = False

    def train(self, tasks: Sequence[Task], count: int) -> Iterator[Event]:
        pending, retried = deque(map(tuple, tasks)), set[tuple[int, ...]]()
        for place in range(count):
            self._hire(place, pending.popleft())
        while self._workers:
            if requested() is not None and not self._stopping:
                self._stopping = True
                pending.clear()
                for worker in self._workers.values():
                    worker.process.terminate()
            for ready in wait(list(self._workers), ATTENTION):
                assert isinstance(ready, Connection)
                worker = self._workers[ready]
                try:
                    event = _received(ready)
                except (EOFError, ConnectionError):
                    reason, lost = self._bury(worker), worker.undone
                    if self._stopping:
                        continue
                    again = lost not in retried
                    retried.add(lost)
                    if again:
                        pending.append(lost)
                    yield from [Failure(seed, reason, again) for seed in lost]
                    if pending:
                        self._hire(worker.place, pending.popleft())
                    continue
                yield event
                if not isinstance(event, (Progress, Note)):
                    worker.done.add(event.seed)
                    if not worker.undone:
                        self._next(worker, pending)

    def dismiss(self) -> None:
        for worker in list(self._workers.values()):
            # SIGTERM would only make it save and stop; this is for when there is no time for that.
            worker.process.kill()
            self._bury(worker)

    def _hire(self, place: int, task: tuple[int, ...]) -> None:
        ours, theirs = SPAWN.Pipe()
        device = self._devices[place % len(self._devices)]
        process = SPAWN.Process(target=_work, args=(theirs, *self._work, device), daemon=True)
        with _environment(ENVIRONMENT), _interrupt_ignored():
            process.start()
        theirs.close()
        ours.send(task)
        self._workers[ours] = _Worker(process, ours, place, task)

    def _next(self, worker: _Worker, pending: deque[tuple[int, ...]]) -> None:
        if pending:
            worker.task, worker.done = pending.popleft(), set()
            # A worker that died in the meantime is noticed when it is read from.
            with suppress(EOFError, ConnectionError):
                worker.connection.send(worker.task)
        else:
            with suppress(EOFError, ConnectionError):
                worker.connection.send(None)
            self._bury(worker)

    def _bury(self, worker: _Worker) -> str:
        del self._workers[worker.connection]
        worker.connection.close()
        worker.process.join()
        code = worker.process.exitcode
        worker.process.close()
        if code is not None and code < 0:
            return f"its process was ended by signal {signal.Signals(-code).name}"
        return f"its process ended with status {code}"


def _work(
    connection: Connection,
    trainer: Trainer,
    recipe: Recipe,
    files: _DataFiles,
    keeper: Keeper,
    threads: int,
    matmul: str,
    device_name: str,
) -> None:
    """Train one task after another, as the parent sends them; ``None`` ends it."""
    only_told_by_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    set_precision(matmul)
    device = torch.device(device_name)
    data = on_device(files.load(), device)
    with suppress(EOFError, ConnectionError):
        while requested() is None and (task := connection.recv()) is not None:
            for event in train_whole_task(trainer, task, recipe, data, device, keeper):
                _send(connection, event)


def _end_with_parent() -> None:
    """Let go of the claimed members at once when the parent is killed: the same command may be typed again by then."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _send(connection: Connection, event: Event) -> None:
    """Send an event; weights go as bytes, since shared memory would vanish with a worker that ends."""
    if isinstance(event, TrainedMember):
        weights = safetensors.torch.save(dict(event.state))
        connection.send((dataclasses.replace(event, state={}), weights))
    else:
        connection.send((event, None))


def _received(connection: Connection) -> Event:
    event: Event
    event, weights = connection.recv()
    if isinstance(event, TrainedMember):
        return dataclasses.replace(event, state=safetensors.torch.load(weights))
    return event


@dataclass(frozen=True)
class _DataFiles:
    """Training and validation split as files; small to send, and in memory once however many workers map it."""

    directory: Path
    frame: Data

    def load(self) -> Data:
        return dataclasses.replace(self.frame, train=self._mapped("train"), validation=self._mapped("validation"))

    def _mapped(self, name: str) -> Split:
        return Split(*(self._tensor(f"{name}-{part}.npy") for part in ("inputs", "labels")))

    def _tensor(self, name: str) -> Tensor:
        # Copy on write: torch wants memory that it may write to, and nobody ever does.
        return torch.from_numpy(np.load(self.directory / name, mmap_mode="c", allow_pickle=False))


@contextmanager
def _mapped_files(data: Data) -> Iterator[_DataFiles]:
    nothing = Split(data.test.inputs[:0].clone(), data.test.labels[:0].clone())
    # When the members are trained, a file that cannot be removed is no reason to fail.
    with tempfile.TemporaryDirectory(prefix="seedvote-", dir=data.scratch, ignore_cleanup_errors=True) as directory:
        for name, split in (("train", data.train), ("validation", data.validation)):
            for part, tensor in (("inputs", split.inputs), ("labels", split.labels)):
                path = Path(directory) / f"{name}-{part}.npy"
                try:
                    np.save(path, tensor.numpy())
                except OSError as error:  # NumPy's own does not say which file
                    raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        frame = dataclasses.replace(data, train=nothing, validation=nothing, test=nothing)
        yield _DataFiles(Path(directory), frame)


def _devices(device: torch.device) -> list[str]:
    """Name every device of a kind; a GPU that was asked for by its number stays alone."""
    if device.type == "cuda" and device.index == torch.cuda.current_device():
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]


@contextmanager
def _interrupt_ignored() -> Iterator[None]:
    """Start processes that ignore Ctrl-C from their first moment: they inherit this, and importing torch takes long."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started meanwhile; the user's own settings win."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
