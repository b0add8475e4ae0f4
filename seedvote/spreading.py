"""One network on many pieces of input, several at once."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from queue import SimpleQueue

import torch
from torch import nn

# Whose layers compute without keeping anything, so that threads may share them.
KNOWN_LAYERS = ("torch", "torchvision", "seedvote")
_ONE_AT_A_TIME = threading.Lock()  # torch's number of threads is the whole process's


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on this thread alone, for what is small.

    After an operation on several threads torch's others wait for the next one at work, for some milliseconds, on cores
    that ``spread`` has better use for: a vote of ten small networks takes half as long again.
    """
    with _ONE_AT_A_TIME, _threads(1):
        yield


@torch.inference_mode()
def spread(network: nn.Module, work: Callable[[nn.Module, int], None], count: int, device: torch.device) -> None:
    """Call ``work(network, i)`` for each ``i`` below ``count``, on the CPU as many at once as torch has threads.

    Each of them then computes with its equal part of torch's threads, mostly one: threads that work on pieces of their
    own need not wait for each other after every layer. What is computed so depends on ``count`` and on the number of
    threads, and on nothing else. A forward of somebody's own may keep things on the network: then each thread has a
    copy, which shares the weights, and a network that cannot be copied takes one piece after the other.
    """
    with _ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        networks = _networks(network, min(threads, count) if device.type == "cpu" else 1)
        if len(networks) == 1:
            for index in range(count):
                work(network, index)
            return
        idle: SimpleQueue[nn.Module] = SimpleQueue()
        for own in networks:
            idle.put(own)

        @torch.inference_mode()  # which holds for one thread only
        def one(index: int) -> None:
            own = idle.get()
            try:
                work(own, index)
            finally:
                idle.put(own)

        with _threads(threads // len(networks)):
            pool = _pool(len(networks), threads // len(networks), os.getpid())
            futures = [pool.submit(one, index) for index in range(count)]
            try:
                for future in futures:
                    future.result()
            finally:  # after an error or an interruption nothing goes on behind the caller's back
                for future in futures:
                    future.cancel()
                wait(futures)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch have so many threads; who calls holds ``_ONE_AT_A_TIME``."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.lru_cache(maxsize=1)
def _pool(count: int, threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads, each with so many of torch's; new ones would have to be given memory for each member anew.

    process: a fork has none of its parent's threads.
    """
    pool, ready = ThreadPoolExecutor(count), threading.Barrier(count)

    def begin() -> None:
        torch.set_num_threads(threads)
        ready.wait()  # so that none begins later, when the caller has set another number for the process

    wait([pool.submit(begin) for _ in range(count)])
    return pool


def _networks(network: nn.Module, count: int) -> list[nn.Module]:
    """Return what so many threads may run at once, or the network alone if they may not."""
    if all(_keeps_nothing(module) for module in network.modules()):
        return [network] * max(1, count)
    weights = [*network.parameters(), *network.buffers()]
    try:
        copies = [copy.deepcopy(network, {id(tensor): tensor for tensor in weights}) for _ in range(count - 1)]
    except Exception:  # of the network's own code, or of what cannot be copied at all
        return [network]
    return [network, *copies]


def _keeps_nothing(module: nn.Module) -> bool:
    has_hooks = bool(module._forward_hooks or module._forward_pre_hooks)
    return type(module).__module__.partition(".")[0] in KNOWN_LAYERS and not has_hooks
