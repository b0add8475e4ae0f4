"""A network on pieces of its input, several at once."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from seedvote.spreading import one_thread, spread

CPU = torch.device("cpu")
MEETING = {"before": lambda: None}  # what happens between keeping and coming back


class Forgetful(nn.Module):
    """Keeps its input on itself and comes back to it later, as networks of users do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        self.kept = inputs
        MEETING["before"]()
        return self.kept * self.weight


class Uncopied(Forgetful):
    def __deepcopy__(self, memo):
        raise TypeError("holds an open file")


def answers(network, count, device=CPU):
    found = {}

    def work(own, index):
        found[index] = (float(own(torch.full((1,), float(index)))), torch.get_num_threads(), own)

    spread(network, work, count, device)
    return found


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("network", [nn.ReLU(), Forgetful(), Uncopied()], ids=lambda network: type(network).__name__)
def test_each_piece_is_answered_once_and_the_number_of_threads_is_left_as_it_was(threads, network, count):
    found = answers(network, count)
    assert {index: value for index, (value, *_) in found.items()} == {index: float(index) for index in range(count)}
    assert torch.get_num_threads() == threads
    workers = 1 if isinstance(network, Uncopied) else max(1, min(threads, count))
    assert all(each == threads // workers for _, each, _ in found.values())


def test_one_thread_is_for_a_while(threads):
    with pytest.raises(KeyError, match="^1$"), one_thread():
        raise KeyError(torch.get_num_threads())
    assert torch.get_num_threads() == threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_what_a_network_keeps_on_itself_is_each_threads_own(two_threads, monkeypatch):
    barrier = threading.Barrier(2)
    monkeypatch.setitem(MEETING, "before", lambda: barrier.wait(10))
    found = answers(Forgetful(), 2)
    assert [found[index][0] for index in range(2)] == [0.0, 1.0]
    assert found[0][2] is not found[1][2]
    assert found[0][2].weight is found[1][2].weight


def test_known_layers_are_shared(two_threads):
    network = nn.Sequential(nn.ReLU(), nn.Tanh())
    found = {}
    spread(network, lambda own, index: found.update({index: own}), 9, CPU)
    assert all(own is network for own in found.values())


def test_a_hook_may_keep_things_too(two_threads):
    network, barrier, seen = nn.Sequential(nn.ReLU()), threading.Barrier(2), set()
    network.register_forward_hook(lambda *_: None)

    def work(own, index):
        barrier.wait(10)
        seen.add(id(own))

    spread(network, work, 2, CPU)
    assert len(seen) == 2


def test_an_accelerator_takes_one_piece_after_the_other(threads):
    assert {each for _, each, _ in answers(nn.ReLU(), 5, torch.device("cuda")).values()} == {threads}


def test_an_error_is_raised_and_stops_the_others(threads):
    done = []

    def work(own, index):
        if index == 1:
            raise RuntimeError("the second")
        done.append(index)

    with pytest.raises(RuntimeError, match="the second"):
        spread(nn.ReLU(), work, 1000, CPU)
    count = len(done)
    assert count < 1000
    assert torch.get_num_threads() == threads
    spread(nn.ReLU(), lambda own, index: done.append(index), 3, CPU)
    assert len(done) == count + 3
