"""Small, fixed runs of the scripts that damage files and mistype command lines; docs/reliability.md has long ones."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import fuzz_command_lines  # noqa: E402
import fuzz_readers  # noqa: E402
from readers import Reader, Readers  # noqa: E402

NAMES = [
    "run.json", "member.json", "safetensors", "preprocessing", "a whole run", ".npz to train on", ".npz to predict",
    "image", "folder to train on", "folder to predict",
]  # fmt: skip

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes pipes and links")


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_reads_or_refuses_whatever_it_is_given(name, runs):
    (reader,) = [reader for reader in Readers(runs / "small").all() if reader.name == name]
    counts, failures = fuzz_readers.run_cases(reader, 20, range(60))
    assert failures == {}
    assert counts["refused"] > 5 and counts.total() == 60


def test_every_reader_is_tried(runs):
    assert [reader.name for reader in Readers(runs / "small").all()] == NAMES


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda place: {}["x"], "KeyError"),
        (lambda place: int("x"), "ValueError without its place"),
        (lambda place: (place / "more").touch(), "wrote"),
        (lambda place: print("oh", file=sys.stderr), "wrote to stderr"),
        (lambda place: b"\xff".decode(), "UnicodeDecodeError"),
    ],
)
def test_what_is_not_the_documented_answer_is_a_failure(read, words, tmp_path):
    counts, failures = fuzz_readers.run_cases(Reader("it", lambda place, dice: None, read, "a.json"), 0, range(2))
    assert counts == Counter(failed=2)
    assert all(words in failure for failure in failures.values())


@pytest.fixture(scope="module")
def place_for_commands(tmp_path_factory):
    place = tmp_path_factory.mktemp("commands")
    fuzz_command_lines.prepare(place)
    return place


def test_invalid_command_lines_end_with_one_message_and_write_nothing(place_for_commands, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    lines = fuzz_command_lines.invalid_lines(60, 20)
    assert len(set(lines)) == 60
    assert {line.command for line in lines} == {"train", "predict", "compare"}
    assert fuzz_command_lines.tried(lines, place_for_commands) == {}


def test_the_same_lines_are_made_again_and_thousands_of_others():
    assert fuzz_command_lines.invalid_lines(50, 3) == fuzz_command_lines.invalid_lines(50, 3)
    assert len(set(fuzz_command_lines.invalid_lines(3000, 0))) == 3000


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ((0, "", ""), "status 0"),
        ((1, "", "error: x\n"), "status 1"),
        ((2, "", "Traceback\nerror: x\n"), "not one message"),
        ((2, "", "error: x\nTraceback (most recent call last)\n"), "a traceback"),
        ((2, "", "error: x\nand\n"), "several lines"),
        ((2, "", "error: \n"), "nobody reads"),
        ((2, "out", "error: x\n"), "on stdout"),
    ],
)
def test_what_is_not_one_message_and_status_two_is_a_failure(outcome, words):
    assert words in fuzz_command_lines.problem(outcome, {}, {})
    assert fuzz_command_lines.problem((2, "", "error: x\n"), {}, {"a": 1}) == "written: [('a', 1)]"
    assert fuzz_command_lines.problem((2, "", "error: x\n"), {}, {}) is None
    assert fuzz_command_lines.problem((2, "", "error: 2 mistakes\n  x\n  y\n"), {}, {}) is None
