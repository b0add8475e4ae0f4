"""One network on many pieces of input, several at once."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import torch
from torch import nn

_ONE_AT_A_TIME = threading.Lock()  # torch's number of threads is the whole process's


@torch.inference_mode()
def spread(network: nn.Module, work: Callable[[nn.Module, int], None], count: int, device: torch.device) -> None:
    """Call ``work(network, i)`` for each ``i`` below ``count``, on the CPU as many at once as torch has threads.

    Each of them then computes with its equal part of torch's threads, mostly one: threads that work on pieces of their
    own need not wait for each other after every layer. What is computed so depends on ``count`` and on the number of
    threads, and on nothing else. A network's forward may keep things on the network: each thread has a copy, which
    shares the weights. A network that cannot be copied takes one piece after the other.
    """
    with _ONE_AT_A_TIME:
        threads = torch.get_num_threads()
        networks = _copies(network, min(threads, count) if device.type == "cpu" else 1)
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

        share = threads // len(networks)
        try:
            with ThreadPoolExecutor(len(networks), initializer=torch.set_num_threads, initargs=(share,)) as pool:
                for _ in pool.map(one, range(count)):
                    pass
        finally:
            torch.set_num_threads(threads)


def _copies(network: nn.Module, count: int) -> list[nn.Module]:
    """Return the network and so many copies less one, or the network alone if it cannot be copied."""
    weights = [*network.parameters(), *network.buffers()]
    try:
        copies = [copy.deepcopy(network, {id(tensor): tensor for tensor in weights}) for _ in range(count - 1)]
    except Exception:  # of the network's own code, or of what cannot be copied at all
        return [network]
    return [network, *copies]
