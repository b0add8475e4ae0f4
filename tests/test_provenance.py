from __future__ import annotations

import json
import os
import platform
import subprocess

import pytest

from seedvote import provenance
from seedvote.provenance import LARGEST_DIFF, Code, code, hardware, versions
from seedvote.store import read_run
from seedvote.store.records import sealed

QUICK = ("data.limit=100", "epochs=1", "model.hidden=[8]", "n_seeds=1", "run=it", "engine=sequential")


def git(*arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(workplace):
    """A repository with one commit, as the working directory."""
    git("init", "-q")
    (workplace / "code.py").write_text("first = 1\nsecond = 2\n")
    git("add", ".")
    git("commit", "-qm", "it")
    return workplace


def test_a_tree_as_committed_is_clean(repository):
    (repository / "untracked.txt").write_text("secret")
    assert code() == Code(git("rev-parse", "HEAD"), dirty=False, diff=None)


def test_changes_are_told_and_files_that_git_does_not_track_are_not(repository, monkeypatch):
    (repository / "untracked.txt").write_text("secret")
    (repository / "code.py").write_text("first = 1\nsecond = 3\n")
    (repository / "staged.py").write_text("third = 4\n")
    git("add", "staged.py")
    (repository / "below").mkdir()
    monkeypatch.chdir(repository / "below")
    found = code()
    assert found.dirty is True
    assert "\n-second = 2\n+second = 3\n" in found.diff
    assert "\n+third = 4\n" in found.diff
    assert "secret" not in found.diff
    git("stash")
    assert code().dirty is False


def test_outside_of_a_repository_nothing_is_known(workplace):
    assert code() == Code()


def test_a_repository_without_a_commit_has_none(workplace):
    git("init", "-q")
    assert code() == Code()


def test_without_git_nothing_is_known(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code() == Code()


def test_git_that_hangs_is_not_waited_for(repository, monkeypatch):
    (repository / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (repository / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{repository}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "PATIENCE", 0.2)
    assert code() == Code()


def test_a_long_diff_is_cut_and_says_so(repository):
    (repository / "code.py").write_text("x = 1\n" * LARGEST_DIFF)
    diff = code().diff
    assert LARGEST_DIFF < len(diff) < LARGEST_DIFF + 100
    assert diff.endswith(f"\n[cut here: the diff is longer than {LARGEST_DIFF} bytes]\n")


def test_a_diff_of_odd_bytes_is_plain_text(repository):
    (repository / "code.py").write_bytes(b"\x1b[31mred\x07 \xff\xfe caf\xc3\xa9 \x0c end\n")
    assert "+\\x1b[31mred\\x07 \\xff\\xfe café \\x0c end\n" in code().diff


@pytest.mark.parametrize("setting", ["diff.external", "core.fsmonitor", "diff.x.textconv", "diff.x.command"])
def test_programs_that_the_repository_names_are_not_started(setting, repository):
    marker = repository / "started"
    (repository / "program").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (repository / "program").chmod(0o755)
    (repository / ".git" / "info" / "attributes").write_text("*.py diff=x\n")
    (repository / "code.py").write_text("first = 5\n")
    git("config", setting, str(repository / "program"))
    git("status") if setting == "core.fsmonitor" else git("--no-pager", "diff")
    assert marker.exists()  # git itself does start it
    marker.unlink()
    assert "+first = 5" in code().diff
    assert not marker.exists()


def test_versions_and_hardware():
    assert versions()["python"] == platform.python_version()
    found = hardware()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["processor"]
    json.dumps(found, allow_nan=False)


def test_a_run_says_what_it_was_made_from(call, repository):
    (repository / "code.py").write_text("first = 1\nsecond = '\x1b'\n")
    assert call("train", *QUICK).status == 0
    record = json.loads((repository / "checkpoints" / "it" / "run.json").read_text())
    assert record["commit"] == git("rev-parse", "HEAD")
    assert record["dirty"] is True
    assert "+second = '\\x1b'" in record["diff"]
    assert record["hardware"]["cores"] >= 1
    lines = len(git("diff").split("\n"))
    # What was noted stays, however the tree looks when members are added.
    git("checkout", "code.py")
    assert call("train", *QUICK[:3], "n_seeds=2", *QUICK[4:]).status == 0
    assert json.loads((repository / "checkpoints" / "it" / "run.json").read_text())["diff"] == record["diff"]
    assert call("verify").status == 0
    log = (repository / "checkpoints" / "it" / "train.log").read_text()
    assert f"code: commit {record['commit']}, changed (a diff of {lines} lines)\n" in log
    assert f"code: commit {record['commit']}\n" in log


def test_runs_from_before_are_read_and_added_to(call, workplace):
    assert call("train", *QUICK).status == 0
    path = workplace / "checkpoints" / "it" / "run.json"
    values = {
        key: value for key, value in json.loads(path.read_text()).items() if key not in ("dirty", "diff", "hardware")
    }
    path.write_text(json.dumps(sealed(values), indent=1) + "\n")
    record = read_run(path.parent).record
    assert (record.dirty, record.diff, record.hardware) == (None, None, None)
    assert call("predict").status == 0
    assert call("train", *QUICK[:3], "n_seeds=2", *QUICK[4:]).status == 0
    assert call("verify").status == 0


@pytest.mark.parametrize(("key", "value"), [("dirty", "yes"), ("diff", 3), ("hardware", []), ("commit", 1)])
def test_what_has_the_wrong_type_is_damage(key, value, call, workplace):
    assert call("train", *QUICK).status == 0
    path = workplace / "checkpoints" / "it" / "run.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), key: value}), indent=1) + "\n")
    with pytest.raises(ValueError, match=f"{key} missing, unknown or of the wrong type"):
        read_run(path.parent)


@pytest.mark.parametrize("key", ["diff", "hardware"])
def test_what_is_taken_out_or_changed_is_noticed(key, call, workplace):
    assert call("train", *QUICK).status == 0
    path = workplace / "checkpoints" / "it" / "run.json"
    values = json.loads(path.read_text())
    for other in ({**values, key: None if key == "hardware" else "x"}, {k: v for k, v in values.items() if k != key}):
        path.write_text(json.dumps(other, indent=1) + "\n")
        with pytest.raises(ValueError, match="its digest does not fit"):
            read_run(path.parent)
