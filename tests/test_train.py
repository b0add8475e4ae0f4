"""`train` from the outside: which members a command trains and what they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seedvote.matmul import choose_matmul

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("data.limit=100", "epochs=2", "model.hidden=[16]", "model.dropout=0.1", "run=it")


def weights(place: Path, seed: int) -> bytes:
    return (place / "it" / f"seed-{seed:04d}" / "model.safetensors").read_bytes()


def contents(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_a_member_is_the_same_alone_among_others_and_added_later(call, workplace):
    def trained(name: str, *arguments: str) -> Path:
        assert call("train", *QUICK, f"checkpoints={name}", *arguments).status == 0
        return workplace / name

    alone = weights(trained("alone", "seeds=[7]"), 7)
    assert weights(trained("three", "first_seed=6", "n_seeds=3"), 7) == alone
    assert weights(trained("ten", "n_seeds=10"), 7) == alone
    assert weights(trained("reversed", "seeds=[8,7]"), 7) == alone
    later = trained("later", "n_seeds=3")
    assert weights(trained("later", "n_seeds=8"), 7) == alone
    assert weights(later, 6) != alone


def test_the_same_command_again_trains_nothing(call, workplace):
    assert call("train", *QUICK, "n_seeds=2").status == 0
    before = contents(workplace)
    again = call("train", *QUICK, "n_seeds=2")
    assert again.status == 0
    assert "all 2 are there already: nothing to train" in again.out
    assert contents(workplace) == before


def test_more_seeds_leave_the_first_untouched(call, workplace):
    call("train", *QUICK, "n_seeds=2")
    before = contents(workplace)
    more = call("train", *QUICK, "n_seeds=4")
    assert "2 are there already; training seeds 2, 3" in more.out
    after = contents(workplace)
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed == {"run.json", "train.log"}
    assert json.loads((workplace / "checkpoints" / "it" / "run.json").read_text())["seeds"] == [0, 1, 2, 3]


def test_a_run_names_itself_after_data_model_and_recipe(call, workplace):
    call("train", *QUICK[:-1], "n_seeds=1")
    call("train", *QUICK[:-1], "n_seeds=1", "epochs=1")
    names = sorted(path.name for path in (workplace / "checkpoints").iterdir())
    assert len(names) == 2
    for name in names:
        record = json.loads((workplace / "checkpoints" / name / "run.json").read_text())
        assert name == f"digits-mlp-{record['recipe_hash'][:6]}"


def test_where_and_how_a_member_is_trained_is_no_part_of_the_recipe(call, workplace):
    call("train", *QUICK, "n_seeds=1")
    again = call("train", *QUICK, "n_seeds=1", "threads=2", "device=cpu")
    assert again.status == 0
    assert "nothing to train" in again.out


def test_what_is_stored_says_how_it_came_about(call, workplace):
    call("train", *QUICK, "n_seeds=1")
    run = workplace / "checkpoints" / "it"
    record = json.loads((run / "run.json").read_text())
    assert record["recipe"]["epochs"] == 2
    assert record["classes"] == list("0123456789")
    assert record["counts"] == {"train": 100, "validation": 100, "test": 100}
    assert record["sample"] is True
    assert set(record["versions"]) == {"seedvote", "python", "torch", "torchvision", "numpy"}
    member = json.loads((run / "seed-0000" / "member.json").read_text())
    assert member["engine"] == "sequential"  # one member alone
    assert member["threads"] == 1
    assert [epoch["epoch"] for epoch in member["history"]] == [1, 2]


def test_a_member_says_who_multiplied(call, workplace):
    assert call("train", *QUICK, "n_seeds=1", "matmul=torch").status == 0
    assert "matmul" not in json.loads((workplace / "checkpoints/it/seed-0000/member.json").read_text())
    assert call("train", *QUICK, "n_seeds=2").status == 0
    second = json.loads((workplace / "checkpoints/it/seed-0001/member.json").read_text())
    assert second.get("matmul") == choose_matmul("auto")


def test_a_member_that_diverges_is_marked_and_the_status_is_not_zero(call, workplace):
    outcome = call("train", *QUICK, "n_seeds=2", "optimizer=sgd", "optimizer.lr=1e30", "optimizer.weight_decay=0")
    assert outcome.status == 1
    assert "seed 0: diverged, the training loss became" in outcome.out
    assert "warning: 2 of 2 members diverged (seeds 0, 1)" in outcome.err
    refused = call("predict")
    assert refused.status == 2
    assert "seed 0 diverged: the training loss became" in refused.err
    assert "on_bad_member=drop" in refused.err


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_between_members_goes_on(how, call, workplace):
    slow = (*QUICK[:-1], "run=it", "epochs=60", "n_seeds=4", "engine=sequential")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "seedvote.train", *slow],
        cwd=workplace, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as training:  # fmt: skip
        first = workplace / "checkpoints" / "it" / "seed-0000" / "member.json"
        deadline = time.monotonic() + 120
        while not first.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        training.send_signal(how)
        _, errors = training.communicate(timeout=60)
    assert training.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[how]
    if how == signal.SIGINT:
        assert "Traceback" not in errors
        assert "of 4 members are stored in checkpoints/it" in errors
        assert "the same command goes on from there:\n  python -m seedvote.train" in errors
    stored = contents(workplace)
    assert not (workplace / "checkpoints" / "it" / "seed-0003" / "member.json").exists()
    refused = call("predict")
    assert refused.status == 2
    assert "run 'it' has" in refused.err
    assert "of 4 members (missing seeds" in refused.err
    assert "run `python -m seedvote.train" in refused.err

    assert call("train", *slow).status == 0
    after = contents(workplace)
    assert all(after[path] == before for path, before in stored.items() if path.name == "model.safetensors")
    assert call("train", *slow, "checkpoints=whole").status == 0
    for seed in range(4):
        assert weights(workplace / "checkpoints", seed) == weights(workplace / "whole", seed)
