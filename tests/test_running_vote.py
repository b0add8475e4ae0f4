from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from safetensors.torch import save
from sklearn.metrics import accuracy_score, log_loss

from seedvote import running_vote, voting
from seedvote.running_vote import VoteCounter, committee_name

DICE = np.random.default_rng(0)
LABELS = DICE.integers(0, 4, 50)
LOGITS = DICE.normal(size=(20, 3, 50, 4)).astype(np.float32)  # of seeds, after epochs


def told(counter, seed, epoch):
    return {vote.seeds: vote for vote in counter.add(seed, epoch, LOGITS[seed, epoch])}


def expected(seeds, epoch):
    vote = voting.vote(LOGITS[list(seeds), epoch])
    return accuracy_score(LABELS, vote.labels), log_loss(LABELS, vote.probabilities)


def test_a_vote_is_told_once_its_last_member_is_there(tmp_path):
    counter = VoteCounter(tmp_path, [3, 0, 2, 1, 4], LABELS)
    found = [told(counter, seed, 1) for seed in range(5)]
    assert [list(votes) for votes in found] == [[], [(0, 1)], [], [(0, 1, 2, 3)], [(0, 1, 2, 3, 4)]]
    for votes in found:
        for seeds, vote in votes.items():
            accuracy, loss = expected(seeds, 1)
            assert vote.epoch == 1
            assert vote.accuracy == accuracy
            assert vote.loss == pytest.approx(loss, rel=1e-12)


def test_neither_order_nor_epochs_nor_a_new_process_matter(tmp_path):
    for number, order in enumerate(permutations(range(4))):
        found = {}
        for seed in order:
            for epoch in (1, 0, 2):
                counter = VoteCounter(tmp_path / str(number), range(4), LABELS)
                for seeds, vote in told(counter, seed, epoch).items():
                    assert (seeds, epoch) not in found
                    found[seeds, epoch] = (vote.accuracy, pytest.approx(vote.loss, rel=1e-12))
        assert found == {
            (seeds, epoch): expected(seeds, epoch) for seeds in ((0, 1), (0, 1, 2, 3)) for epoch in range(3)
        }


def test_a_member_counts_once(tmp_path):
    counter = VoteCounter(tmp_path, range(2), LABELS)
    assert not told(counter, 0, 1)
    assert not told(counter, 0, 1)
    assert list(told(counter, 1, 1)) == [(0, 1)]
    assert not told(counter, 1, 1)


def test_a_member_whose_votes_were_not_taken_is_told_again(tmp_path):
    counter = VoteCounter(tmp_path, range(2), LABELS)
    told(counter, 0, 1)
    counter.add(1, 1, LOGITS[1, 1]).close()
    broken_off = counter.add(1, 1, LOGITS[1, 1])
    next(broken_off)
    broken_off.close()
    assert list(told(counter, 1, 1)) == [(0, 1)]


def test_seeds_that_come_later_make_larger_committees(tmp_path):
    for seed in range(3):
        told(VoteCounter(tmp_path, range(3), LABELS), seed, 0)
    larger = VoteCounter(tmp_path, range(9), LABELS)
    found = [list(told(larger, seed, 0)) for seed in range(3, 9)]
    assert [[len(seeds) for seeds in votes] for votes in found] == [[4], [], [], [], [8], [9]]
    sums = running_vote._read(tmp_path / "epoch-0000.safetensors", (50, 4))
    assert set(sums) == {frozenset(range(9))}  # one sum is left of all of them


def test_what_was_added_up_of_other_members_completes_no_committee(tmp_path):
    for seed in (5, 6):
        told(VoteCounter(tmp_path, [5, 6], LABELS), seed, 0)
    counter = VoteCounter(tmp_path, [0, 5, 6], LABELS)
    assert list(told(counter, 0, 0)) == [(0, 5, 6)]  # 5 and 6 are one sum: nobody can tell what 0 and 5 come to


def test_one_seed_and_too_many_numbers_have_no_vote(tmp_path, monkeypatch):
    assert not told(VoteCounter(tmp_path / "a", [0], LABELS), 0, 0)
    monkeypatch.setattr(running_vote, "LARGEST", 199)
    counter = VoteCounter(tmp_path / "b", [0, 1], LABELS)
    assert not told(counter, 0, 0)
    assert not told(counter, 1, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [
    b"", b"\x08\0\0\0\0\0\0\0{}      x", bytes(range(99, 0, -1)),
    *(save({"0": torch.zeros(3, dtype=dtype)}) for dtype in (torch.bfloat16, torch.float8_e4m3fn)),
])  # fmt: skip
def test_a_damaged_file_costs_its_epoch(content, tmp_path):
    counter = VoteCounter(tmp_path, range(3), LABELS)
    told(counter, 0, 0)
    (tmp_path / "epoch-0000.safetensors").write_bytes(content)
    assert not told(counter, 1, 0)
    assert not told(counter, 2, 0)
    told(counter, 0, 1)
    assert list(told(counter, 1, 1)) == [(0, 1)]


def test_equal_probabilities_go_to_the_lowest_class(tmp_path):
    counter = VoteCounter(tmp_path, range(2), np.array([0, 0, 1]))
    one, other = np.log([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]).astype(np.float32)
    list(counter.add(0, 0, np.stack([one, other, one])))
    (vote,) = counter.add(1, 0, np.stack([other, one, one]))
    assert vote.accuracy == pytest.approx(2 / 3)


def test_committees_have_names_of_their_own():
    assert committee_name([0, 1, 2, 7]) == "vote-of-4-seeds-0-to-2-and-7"
    assert committee_name([3, 5]) == "vote-of-2-seeds-3-and-5"
    many, others = list(range(0, 200, 2)), [*range(0, 198, 2), 199]
    assert committee_name(many) != committee_name(others)
    assert len(committee_name(many)) < 120
