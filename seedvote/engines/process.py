"""One process for each core or GPU, one member at a time in each: any model, any data, bit for bit the plain loop.

Starting a worker costs seconds (it imports torch), so workers are kept for the whole run and take one seed after
another. The data lies in files that all workers map, so it is in memory once.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from seedvote.training import on_device, train_member
from seedvote.types import Data, EpochRecord, Failure, Progress, Recipe, Split, TrainedMember

SPAWN = multiprocessing.get_context("spawn")
# Read by OpenMP and malloc when a process starts. Waiting threads must not spin on a core that another worker
# needs; and memory that a step frees is needed again by the next step, so malloc must not give it back in between.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
}


@dataclass(frozen=True)
class Process:
    """Trains several members at once, each in a process of its own.

    workers: how many; ``None`` for one for each GPU, or one for each core that ``threads`` leaves.
    A worker that dies is replaced, and its member is tried once more.
    """

    workers: int | None = None
    name: str = "process"

    def __post_init__(self) -> None:
        """Refuse a number of workers that makes no sense."""
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"engine.workers must be at least 1, or null for one a core, got {self.workers}")

    def train(
        self, seeds: Sequence[int], recipe: Recipe, data: Data, device: torch.device
    ) -> Iterator[Progress | TrainedMember | Failure]:
        """Train one member for each seed, in the order in which workers become free."""
        if not seeds:
            return
        with ExitStack() as cleanup:
            files = cleanup.enter_context(_mapped_files(data))
            crew = _Crew(recipe, files, _devices(device), torch.get_num_threads())
            cleanup.callback(crew.dismiss)
            yield from crew.train(seeds, self._count(len(seeds), device))

    def _count(self, members: int, device: torch.device) -> int:
        if self.workers is not None:
            wanted = self.workers
        elif device.type == "cpu":
            wanted = max(1, len(os.sched_getaffinity(0)) // torch.get_num_threads())
        else:
            wanted = len(_devices(device))
        return min(wanted, members)


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    place: int
    seed: int


class _Crew:
    """The workers of one run, and who works on what."""

    def __init__(self, recipe: Recipe, files: _DataFiles, devices: list[str], threads: int) -> None:
        self._task = (recipe, files, threads)
        self._devices = devices
        self._workers: dict[Connection, _Worker] = {}

    def train(self, seeds: Sequence[int], count: int) -> Iterator[Progress | TrainedMember | Failure]:
        pending, retried = deque(seeds), set[int]()
        for place in range(count):
            self._hire(place, pending.popleft())
        while self._workers:
            for ready in wait(list(self._workers)):
                assert isinstance(ready, Connection)
                worker = self._workers[ready]
                try:
                    event = _received(ready)
                except (EOFError, ConnectionError):
                    reason = self._bury(worker)
                    again = worker.seed not in retried
                    retried.add(worker.seed)
                    if again:
                        pending.append(worker.seed)
                    yield Failure(worker.seed, reason, again)
                    if pending:
                        self._hire(worker.place, pending.popleft())
                    continue
                yield event
                if not isinstance(event, Progress):
                    self._next(worker, pending)

    def dismiss(self) -> None:
        for worker in list(self._workers.values()):
            worker.process.terminate()
            self._bury(worker)

    def _hire(self, place: int, seed: int) -> None:
        ours, theirs = SPAWN.Pipe()
        device = self._devices[place % len(self._devices)]
        process = SPAWN.Process(target=_work, args=(theirs, *self._task, device), daemon=True)
        with _environment(ENVIRONMENT):
            process.start()
        theirs.close()
        ours.send(seed)
        self._workers[ours] = _Worker(process, ours, place, seed)

    def _next(self, worker: _Worker, pending: deque[int]) -> None:
        if pending:
            worker.seed = pending.popleft()
            # A worker that died in the meantime is noticed when it is read from.
            with suppress(EOFError, ConnectionError):
                worker.connection.send(worker.seed)
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


def _work(connection: Connection, recipe: Recipe, files: _DataFiles, threads: int, device_name: str) -> None:
    """Train one member after another, as the parent sends seeds; ``None`` ends it."""
    # Ctrl-C reaches the whole group; what is to be done about it is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    data = on_device(files.load(), device)
    with suppress(EOFError, ConnectionError):
        while (seed := connection.recv()) is not None:
            try:
                for event in train_member(seed, recipe, data, device):
                    _send(connection, Progress(seed, event) if isinstance(event, EpochRecord) else event)
            except (EOFError, ConnectionError):
                raise
            except Exception as error:
                _send(connection, Failure(seed, f"{type(error).__name__}: {error}", retried=False))


def _send(connection: Connection, event: Progress | TrainedMember | Failure) -> None:
    """Send an event; weights go as bytes, since shared memory would vanish with a worker that ends."""
    if isinstance(event, TrainedMember):
        weights = safetensors.torch.save(dict(event.state))
        connection.send((dataclasses.replace(event, state={}), weights))
    else:
        connection.send((event, None))


def _received(connection: Connection) -> Progress | TrainedMember | Failure:
    event: Progress | TrainedMember | Failure
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
    with tempfile.TemporaryDirectory(prefix="seedvote-") as directory:
        for name, split in (("train", data.train), ("validation", data.validation)):
            np.save(Path(directory) / f"{name}-inputs.npy", split.inputs.numpy())
            np.save(Path(directory) / f"{name}-labels.npy", split.labels.numpy())
        frame = dataclasses.replace(data, train=nothing, validation=nothing, test=nothing)
        yield _DataFiles(Path(directory), frame)


def _devices(device: torch.device) -> list[str]:
    """Name every device of a kind; a GPU that was asked for by its number stays alone."""
    if device.type == "cuda" and device.index == torch.cuda.current_device():
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]


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
