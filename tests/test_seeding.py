from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seedvote.seeding import Streams, restored_generators, seed_device
from seedvote.types import STREAMS

CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**63)
POSITIONS = st.lists(st.integers(0, 10**6), max_size=2).map(tuple)


@given(SEEDS, st.sampled_from(sorted(STREAMS)), POSITIONS)
def test_a_draw_depends_on_seed_stream_and_position_alone(seed, stream, position):
    once, again = Streams(seed), Streams(seed)
    again.generator("order", 1).permutation(10)  # drawing elsewhere in between changes nothing
    assert once.number(stream, *position) == again.number(stream, *position)
    assert np.array_equal(once.generator(stream, *position).random(4), again.generator(stream, *position).random(4))


def test_streams_are_numpys_seed_sequences():
    expected = np.random.SeedSequence(7, spawn_key=(STREAMS["order"], 3, 5))
    assert Streams(7).number("order", 3, 5) == expected.generate_state(1, np.uint64)[0]
    assert np.array_equal(
        Streams(7).generator("order", 3, 5).random(5),
        np.random.Generator(np.random.PCG64(expected)).random(5),
    )


def test_seeds_streams_and_positions_all_tell_draws_apart():
    places = itertools.product(range(20), STREAMS, range(5), range(5))
    numbers = [Streams(seed).number(stream, epoch, step) for seed, stream, epoch, step in places]
    assert len(set(numbers)) == len(numbers)


def test_what_does_not_vary_follows_the_shared_seed():
    first, second = (Streams(seed, vary=("init",), shared_seed=11) for seed in (3, 4))
    assert first.number("init", 0) != second.number("init", 0)
    for stream in ("order", "augment", "dropout"):
        assert first.number(stream, 1, 2) == second.number(stream, 1, 2) == Streams(11).number(stream, 1, 2)


def test_seed_zero_is_a_seed_like_any_other():
    assert Streams(0).number("init", 0) != Streams(0, shared_seed=5).number("order", 0)
    assert Streams(0, vary=tuple(STREAMS), shared_seed=5).number("init", 0) == Streams(0).number("init", 0)
    assert Streams(0, vary=(), shared_seed=5).number("init", 0) == Streams(5).number("init", 0)


def test_global_generators_are_given_back_as_they_were():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with restored_generators(CPU):
        seed_device(CPU, 99)
        torch.rand(10)
    assert torch.equal(torch.rand(3), expected)


def test_a_stream_that_does_not_exist_is_refused():
    with pytest.raises(KeyError):
        Streams(0).number("weather", 0)
