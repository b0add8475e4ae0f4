"""Errors of the disk: a small part of scripts/inject_faults.py, and what it found one by one."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

resource = pytest.importorskip("resource", reason="limits the size of files as POSIX does")
inject_faults = pytest.importorskip("inject_faults")

from seedvote.assembly import stored_data  # noqa: E402
from seedvote.inference import load  # noqa: E402
from seedvote.logits import split_logits  # noqa: E402
from seedvote.store import keeper as store_keeper  # noqa: E402
from seedvote.store import members as store_members  # noqa: E402

GROUP = (
    "data.limit=60", "epochs=2", "model.hidden=[16]", "run=it", "n_seeds=3", "engine=fused", "+engine.workers=1",
    "save_every=0",
)  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds the files of descriptors under /proc")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(("engine", "first"), [("sequential", 6), ("fused", 19)])
def test_training_survives_errors_of_the_disk(engine, first, workplace):
    inject_faults.warm_up()
    rows = list(inject_faults.storm(engine, workplace, every=32, first=first))
    assert [row.split(" | ")[1] for row in rows] == ["once", "from then on", "half"]
    assert not any("| 0 of " in row for row in rows)


@contextmanager
def largest_file(size):
    """Let the system refuse, with EFBIG, what a file has beyond so many bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def failing_for(function, position, seed):
    def fails(*arguments):
        if seed in (arguments[position], getattr(arguments[position], "seed", None)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"seed-{seed:04d}/file")
        return function(*arguments)

    return fails


@pytest.mark.parametrize(("name", "function", "position"), [
    ("write_snapshot", store_keeper.write_snapshot, 1),
    ("write_member", store_members.write_member, 1),
    ("_lock", store_keeper._lock, 1),
])  # fmt: skip
def test_what_cannot_be_written_of_one_stacked_member_costs_no_other(name, function, position, call, workplace):
    assert call("train", *GROUP, "checkpoints=whole").status == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_keeper, name, failing_for(function, position, 1))
        outcome = call("train", *GROUP)
    assert outcome.status == 1
    assert "seed 1: failed, seed-0001/file cannot be written: No space left on device" in outcome.out
    assert "warning: 1 of 3 members failed (seeds 1)\n2 of 3 members are stored in checkpoints/it; the" in outcome.err
    assert call("train", *GROUP).status == 0
    for seed in range(3):
        file = f"it/seed-{seed:04d}/model.safetensors"
        assert (workplace / "checkpoints" / file).read_bytes() == (workplace / "whole" / file).read_bytes()


@pytest.mark.parametrize(("broken", "said"), [
    ("unlink", "seed 0 is stored; its state.safetensors may be removed: "),
    ("fsync", "seed 0 is stored, but a power failure now could lose it: "),
])  # fmt: skip
def test_an_error_after_a_member_is_stored_is_no_failure(broken, said, call, workplace, monkeypatch):
    record = workplace / "checkpoints" / "it" / "seed-0000" / "member.json"
    own = getattr(os, broken)

    def fails(target, *rest, **options):
        if record.exists() and (broken == "fsync" or str(target).endswith("/state.safetensors")):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return own(target, *rest, **options)

    monkeypatch.setattr(os, broken, fails)
    outcome = call("train", "data.limit=60", "epochs=1", "run=it", "n_seeds=1", "engine=sequential")
    assert outcome.status == 0
    assert said in outcome.out + outcome.err


def test_temporary_files_of_a_run_that_could_not_be_removed_are_removed_later(call, workplace):
    left = workplace / "checkpoints" / "it" / ".run.json.abc.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    assert call("train", "data.limit=60", "epochs=1", "run=it", "n_seeds=1").status == 0
    assert not left.exists()


def test_data_for_workers_that_cannot_be_written_are_named(call, workplace):
    arguments = ("data.limit=300", "epochs=1", "run=it", "n_seeds=2", "engine=process")
    assert call("train", *arguments[:3], "n_seeds=1").status == 0
    with largest_file(8000):  # larger than run.json, smaller than the inputs
        outcome = call("train", *arguments)
    assert outcome.status == 2
    assert outcome.err.startswith("error: /") and outcome.err.count("\n") == 1
    assert "train-inputs.npy cannot be read or written: " in outcome.err


def test_logits_that_the_system_does_not_take_are_computed_all_the_same(runs):
    ensemble = load(runs / "it")
    data = stored_data(ensemble.run, {}, trust=False)
    with largest_file(1000):
        found = split_logits(ensemble, data.test, "test")
    assert found.computed == 5
    assert not list(runs.rglob("*logits*"))


def test_a_report_that_cannot_be_written_ends_in_one_sentence(runs, call):
    with largest_file(1000):
        outcome = call("compare", "run=it")
    assert outcome.status == 2
    place = "checkpoints/it/report/comparison.json"
    assert outcome.err == f"error: {place} cannot be read or written: File too large\n"
    assert not list((runs / "it" / "report").iterdir())
    assert call("compare", "run=it").status == 0
