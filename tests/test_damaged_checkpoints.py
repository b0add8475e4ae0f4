"""A small, fixed run of the script that damages checkpoints; docs/reliability.md has a long one."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from damage_checkpoints import SNAPSHOT, WEIGHTS, Sound, all_kinds, kind_of, outcome, run_case  # noqa: E402
from seedvote.files import write_json  # noqa: E402
from seedvote.inference import load  # noqa: E402
from seedvote.store import check_member, members, read_run, read_snapshot, records, snapshots  # noqa: E402
from seedvote.types import Snapshot  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes pipes and links")

KINDS = all_kinds()


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Sound:
    return Sound(tmp_path_factory.mktemp("sound"))


def failures(sound, cases) -> dict[str, tuple[str, str, str]]:
    found = {case: run_case(sound, 20, case) for case in cases}
    return {f"{case} {kind_of(case, KINDS).name}": said for case, said in found.items() if said[0] != "noticed"}


def test_every_kind_of_damage_is_noticed_and_nothing_damaged_is_loaded(sound):
    assert {kind_of(case, KINDS) for case in range(len(KINDS))} == set(KINDS)
    assert failures(sound, range(len(KINDS) + 20)) == {}


class Equal(str):
    """A digest that is equal to any other."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False


@pytest.mark.parametrize(
    ("name", "module"),
    [(f"{SNAPSHOT}: tensors swapped", snapshots), (f"{WEIGHTS}: tensors swapped", members)],
)
def test_damage_is_loaded_and_reported_where_a_digest_is_not_compared(name, module, sound, monkeypatch):
    monkeypatch.setattr(module, "_digest", lambda *_: Equal(), raising=False)
    monkeypatch.setattr(members, "digest", lambda path: Equal())
    hashes = SimpleNamespace(sha256=lambda content: SimpleNamespace(hexdigest=Equal))
    monkeypatch.setattr(module, "hashlib", hashes)
    (kind,) = [kind for kind in KINDS if kind.name == name]
    assert outcome(sound, kind, random.Random(0))[0] == "loaded"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": None}, {"groups": 3}, {"history": [{"epoch": 1}]}, {"optimizer": []}, {"optimizer": {}}, {"step": -1},
        {"kept_epoch": 9}, {"more": 1},
    ],
)  # fmt: skip
def test_facts_of_another_form_are_refused_though_their_digest_fits(change, sound, tmp_path, monkeypatch):
    run = read_run(sound.half)
    snapshot = read_snapshot(run.snapshot_path(0), 0, run.record.recipe_hash)
    dumps = snapshots.json.dumps
    monkeypatch.setattr(snapshots.json, "dumps", lambda facts, **rest: dumps({**facts, **change}, **rest))
    path = tmp_path / SNAPSHOT
    snapshots.write_snapshot(path, 0, run.record.recipe_hash, snapshot)
    with pytest.raises(ValueError, match=r"state\.safetensors is not as this seedvote writes it"):
        read_snapshot(path, 0, run.record.recipe_hash)


def test_a_huge_sparse_file_is_not_hashed(sound, monkeypatch, tmp_path):
    place = shutil.copytree(sound.run, tmp_path / "run")
    os.truncate(place / "seed-0000" / WEIGHTS, 2**40)
    monkeypatch.setattr(members, "digest", lambda path: pytest.fail("hashed"))
    assert "is damaged" in (check_member(read_run(place), 0) or "")


def test_a_run_whose_record_does_not_know_a_member_is_not_loaded(sound, tmp_path):
    place = shutil.copytree(sound.run, tmp_path / "run")
    record = dataclasses.asdict(read_run(place).record)
    write_json(place / "run.json", records.sealed({**record, "seeds": [0, 2]}))
    with pytest.raises(ValueError, match=r"run\.json does not know the members of seeds 1 "):
        load(place)


def test_a_state_that_is_replaced_while_it_is_read_is_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    weights = {"w": torch.ones(3)}
    older = Snapshot((), 1, torch.zeros(()), 0.5, weights, weights, 0, {}, [], 2.0)
    newer = dataclasses.replace(older, step=2)
    own = snapshots._digest

    def meanwhile(place, sealed):
        if replacements:
            snapshots.write_snapshot(place, 7, "hash", replacements.pop())
        return own(place, sealed)

    monkeypatch.setattr(snapshots, "_digest", meanwhile)
    replacements = [newer]
    snapshots.write_snapshot(path, 7, "hash", older)
    assert snapshots.read_snapshot(path, 7, "hash").step == 2
    replacements = [newer, older] * snapshots.ATTEMPTS  # somebody who replaces it again and again is not waited for
    with pytest.raises(ValueError, match="its digest does not fit"):
        snapshots.read_snapshot(path, 7, "hash")
