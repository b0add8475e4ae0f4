from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seedvote.files import digest, read_json, replaced, write_json
from seedvote.store import (
    MemberRecord,
    RunRecord,
    find_run,
    open_run,
    read_member,
    read_run,
    read_weights,
    recipe_hash,
    write_member,
)
from seedvote.types import EpochRecord, TrainedMember

RECIPE = {"data": {"name": "digits", "limit": None}, "epochs": 2, "vary": ["init"]}
FACTS = {
    "device": "cpu",
    "threads": 1,
    "finished": "2026-01-01T00:00:00+00:00",
    "versions": {"torch": "2"},
}


def record(seeds=(0, 1), recipe=RECIPE, fingerprint="f" * 64, command="python -m seedvote.train") -> RunRecord:
    return RunRecord(
        recipe=recipe,
        recipe_hash=recipe_hash(recipe, fingerprint),
        fingerprint=fingerprint,
        location={"root": "/data"},
        classes=["a", "b"],
        input_shape=[3],
        input_dtype="float32",
        mean=[0.0, 0.0, 0.0],
        std=[1.0, 1.0, 1.0],
        counts={"train": 5, "validation": 2, "test": 3},
        sample=False,
        seeds=list(seeds),
        command=command,
        created="2026-01-01T00:00:00+00:00",
        commit=None,
        versions={"torch": "2"},
    )


def member(seed=0) -> TrainedMember:
    generator = torch.Generator().manual_seed(seed)
    state = {"weight": torch.randn(2, 3, generator=generator), "seen": torch.tensor(4)}
    history = (EpochRecord(1, 0.5, 0.4, 0.9, 0.01, 1.0), EpochRecord(2, 0.3, 0.35, 0.95, 0.0, 1.0))
    return TrainedMember(seed, state, history, kept_epoch=2, seconds=2.0)


@pytest.fixture
def run(tmp_path):
    made = open_run(tmp_path / "checkpoints", "mine", record())
    write_member(made, member(0), FACTS)
    return made


def test_what_is_written_is_read_back(run):
    again = read_run(run.path)
    assert again.record == run.record
    stored = read_member(again, 0)
    assert stored.kept == dataclasses.asdict(member(0).history[1])
    weights = read_weights(again, stored)
    for name, tensor in member(0).state.items():
        assert torch.equal(weights[name], tensor)
        assert weights[name].dtype == tensor.dtype
    assert again.missing([0, 1, 2]) == [1, 2]


def test_tensors_that_share_memory_or_are_not_contiguous_are_stored(run):
    shared = torch.arange(6.0).reshape(2, 3)
    state = {"one": shared.clone(), "channels_last": torch.randn(2, 3, 4, 5).contiguous()}
    stored = write_member(run, dataclasses.replace(member(5), state=state), FACTS)
    assert torch.equal(read_weights(run, stored)["one"], shared)


def test_a_run_is_found_again_and_remembers_all_its_seeds(run):
    checkpoints = run.path.parent
    again = open_run(checkpoints, "mine", record(seeds=[1, 5], command="python -m seedvote.train seeds=[1,5]"))
    assert again.record.seeds == [0, 1, 5]
    assert again.record.command == "python -m seedvote.train seeds=[1,5]"
    assert read_run(run.path).record == again.record
    assert read_member(again, 0) == read_member(run, 0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"recipe": {**RECIPE, "epochs": 3}}, "epochs is 2 there and 3 here"),
        ({"recipe": {**RECIPE, "data": {"name": "usps", "limit": None}}}, "data.name is digits there and usps here"),
        ({"fingerprint": "e" * 64}, "the data has changed"),
    ],
)
def test_another_recipe_is_never_mixed_in(run, changed, words):
    before = digest(run.path / "run.json")
    with pytest.raises(ValueError, match=words):
        open_run(run.path.parent, "mine", record(**changed))
    assert digest(run.path / "run.json") == before


def test_runs_are_found_by_name_by_prefix_and_by_last_use(tmp_path):
    for age, name in enumerate(["mnist-mlp-1", "mnist-lenet-2", "digits-mlp-3", "digits-mlp-33"]):
        path = open_run(tmp_path, name, record()).path / "run.json"
        os.utime(path, (1e9 - age, 1e9 - age))
    assert find_run(tmp_path, None).name == "mnist-mlp-1"
    assert find_run(tmp_path, "mnist-l").name == "mnist-lenet-2"
    assert find_run(tmp_path, "digits-mlp-3").name == "digits-mlp-3"
    open_run(tmp_path, "digits-mlp-33", record())
    assert find_run(tmp_path, None).name == "digits-mlp-33"
    with pytest.raises(ValueError, match="run=mnist fits several runs .* choose one of mnist-lenet-2, mnist-mlp-1"):
        find_run(tmp_path, "mnist")
    with pytest.raises(ValueError, match="run=cifar fits no run"):
        find_run(tmp_path, "cifar")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), replaced(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    assert read_json(path)[0] == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_files_can_be_read_by_others(tmp_path):
    mask = os.umask(0o022)
    try:
        write_json(tmp_path / "file.json", {})
    finally:
        os.umask(mask)
    assert (tmp_path / "file.json").stat().st_mode & 0o777 == 0o644


def test_a_member_counts_only_once_its_record_is_written(run, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seedvote.store.members.write_record", fails)
    with pytest.raises(OSError, match="No space"):
        write_member(run, member(1), FACTS)
    assert run.missing([0, 1]) == [1]


def damaged(run, name, change):
    path = run.member_path(0) / name
    path.write_bytes(change(path.read_bytes()))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["model.safetensors", "member.json", "run.json"]))
def test_damage_to_any_file_is_noticed(run, data, name):
    """A byte changed or a file cut short: an error names the file."""
    path = run.path / name if name == "run.json" else run.member_path(0) / name
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:place])
    else:
        byte = whole[place] ^ data.draw(st.integers(1, 255))
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    try:
        with pytest.raises(ValueError, match=re.escape(name)):
            read_weights(run, read_member(read_run(run.path), 0))
    finally:
        path.write_bytes(whole)


def test_weights_of_another_member_are_refused(run):
    write_member(run, member(1), FACTS)
    shutil.copy(run.member_path(1) / "model.safetensors", run.member_path(0) / "model.safetensors")
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is not the one in member.json"):
        read_weights(run, read_member(run, 0))


def test_a_member_directory_that_was_moved_is_refused(run):
    shutil.copytree(run.member_path(0), run.member_path(3))
    with pytest.raises(ValueError, match="belongs to seed 0, not to seed 3: it was moved here"):
        read_member(run, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "holds a list where an object was wanted"),
        ("[" * 100_000, "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"format": 99}', "has format 99, this seedvote reads 2"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_records_that_are_none_are_refused(run, text, words):
    (run.path / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=words):
        read_run(run.path)


@pytest.mark.parametrize("kind", [RunRecord, MemberRecord])
def test_every_field_of_a_record_is_checked(run, kind):
    path = run.path / "run.json" if kind is RunRecord else run.member_path(0) / "member.json"
    whole = json.loads(path.read_text())

    def read():
        return read_run(run.path) if kind is RunRecord else read_member(run, 0)

    for field in dataclasses.fields(kind):
        if field.name == "format":
            continue
        for wrong in (object, {}.get):
            changed = {**whole, field.name: ["x", {}] if wrong is object else {"a": ["x"]}}
            if wrong is not object and field.name in ("recipe", "location", "hardware"):
                continue  # these may hold any JSON object
            path.write_text(json.dumps(changed))
            with pytest.raises(ValueError, match=rf"{path.name} is damaged: {field.name} "):
                read()
        if field.name not in whole:
            assert field.name in (
                "preprocessing",
                "dirty",
                "diff",
                "hardware",
                "matmul",
            )  # a record may lack what came later
            continue
        path.write_text(json.dumps({key: value for key, value in whole.items() if key != field.name}))
        # What came later may be absent, but the digest tells if it was there.
        reason = f"{field.name} " if field.default is dataclasses.MISSING else ".* its digest does not fit"
        with pytest.raises(ValueError, match=rf"{path.name} is damaged: {reason}"):
            read()
    path.write_text(json.dumps({**whole, "more": 1}))
    with pytest.raises(ValueError, match="is damaged: more "):
        read()
