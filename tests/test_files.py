"""JSON files as a stranger might leave them, and paths that lead elsewhere."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seedvote import files
from seedvote.files import digest, read_json, refuse_way_out, write_json

ROOT = Path(__file__).resolve().parent.parent
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\r\t"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)

DAMAGED = {
    "empty": (b"", "not valid JSON (JSONDecodeError)"),
    "cut short": (b'{"a": 1', "not valid JSON (JSONDecodeError)"),
    "NaN": (b'{"a": NaN}', "holds a number that is not finite"),
    "minus infinity": (b'{"a": [-Infinity]}', "holds a number that is not finite"),
    "a float that overflows": (b'{"a": 1e999}', "holds a number that is not finite"),
    "an integer no float holds": (b'{"a": 1' + b"0" * 400 + b"}", "holds a number that is not finite"),
    "an integer of too many digits": (b'{"a": ' + b"9" * 100_000 + b"}", "not valid JSON (Exceeds the limit"),
    "a million lists in one another": (b'{"a": ' + b"[" * 10**6, "not valid JSON (RecursionError)"),
    "a million objects in one another": (b'{"a": ' * 10**6, "not valid JSON (RecursionError)"),
    "a few hundred lists in one another": (
        b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}",
        "holds more than 100 objects and lists inside one another",
    ),
    "not UTF-8": (b'{"a": "\xff"}', "not valid JSON (UnicodeDecodeError)"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not valid JSON (UnicodeDecodeError)"),
    "half a surrogate pair": (b'{"a": "\\ud83d"}', "holds '\\ud83d', which is no text"),
    "half a pair in a key": (b'{"\\udfff": 1}', "holds '\\udfff', which is no text"),
    "a text that steers a terminal": (b'{"a": ["\\u001b[2J"]}', "holds '\\x1b[2J', which is no text"),
    "a bell in a key": (b'{"\\u0007": 1}', "holds '\\x07', which is no text"),
    "a key twice": (b'{"a": {"b": 1, "b": 2}}', "not valid JSON (a key stands twice in one object)"),
    "a list": (b"[1]", "holds a list where an object was wanted"),
    "bytes of nothing": (bytes(1000), "not valid JSON (JSONDecodeError)"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_json_that_is_none_is_refused_by_path_and_reason(damage, tmp_path):
    content, words = DAMAGED[damage]
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path} is damaged: it ")
    assert words in str(caught.value)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_is_written_is_read_back(value, tmp_path):
    path = tmp_path / "a.json"
    write_json(path, value)
    assert read_json(path)[0] == value


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(alphabet='{}[]",:\\ud8019eE+-.Nantrufalse ', max_size=40))
def test_anything_else_is_read_or_refused(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        value = read_json(path)[0]
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert value == json.loads(path.read_bytes())
        json.dumps(value, allow_nan=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, "\ud800", "\x1b[2J", [[float("-inf")]]])
def test_what_could_not_be_read_again_is_not_written(value, tmp_path):
    with pytest.raises(ValueError, match="could not be read again|Out of range float"):
        write_json(tmp_path / "a.json", {"a": value})
    assert list(tmp_path.iterdir()) == []


def test_a_file_name_that_is_not_utf_8_is_text(tmp_path):
    name = os.fsdecode(b"/data/\xff")
    write_json(tmp_path / "a.json", {"root": name})
    assert read_json(tmp_path / "a.json")[0] == {"root": name}


def test_files_that_are_too_large_are_refused_before_they_are_parsed(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    with path.open("wb") as file:  # 8 EiB less a byte, where the file system lets us, without a block of it on the disk
        for exponent in range(63, 30, -1):
            try:
                file.truncate(2**exponent - 1)
            except OSError:
                continue
            break
    with pytest.raises(ValueError, match=f"larger than {files.LARGEST_JSON} bytes, so seedvote did not write it"):
        read_json(path)
    path.write_bytes(b'{"a": [' + b"[]," * files.MOST_VALUES + b"[]]}")
    with pytest.raises(ValueError, match=f"more than {files.MOST_VALUES} values, so seedvote did not write it"):
        read_json(path)
    monkeypatch.setattr(files, "LARGEST_JSON", 100)
    with pytest.raises(ValueError, match="that is more than seedvote reads again"):
        write_json(tmp_path / "b.json", {"a": "x" * 200})
    assert not (tmp_path / "b.json").exists()


@pytest.mark.slow
def test_the_worst_json_takes_no_more_memory_than_is_said(tmp_path):
    pairs = files.MOST_VALUES - 10
    path = tmp_path / "a.json"
    path.write_bytes(b"{" + b",".join(b'"%d":1.5' % index for index in range(pairs)) + b"}")
    code = (
        "import resource, sys; from pathlib import Path; from seedvote.files import read_json\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30 + 2**28, 2**30 + 2**28))\n"
        "print(len(read_json(Path(sys.argv[1]))[0]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout == f"{pairs}\n", found.stderr


def test_too_little_memory_is_no_traceback(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise MemoryError

    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr(files.json, "loads", fails)
    with pytest.raises(ValueError, match=r"a\.json is damaged: it is not valid JSON \(MemoryError\)"):
        read_json(tmp_path / "a.json")


def in_the_place_of(path: Path, kind: str) -> None:
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "terminal":
        path.symlink_to("/dev/tty")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "broken link":
        path.symlink_to(path.parent / "nowhere")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices as files are for POSIX")
@pytest.mark.parametrize("kind", ["directory", "pipe", "device", "terminal", "loop", "broken link", "nothing"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "run.json"
    in_the_place_of(path, kind)
    with pytest.raises(ValueError, match=r"run\.json cannot be read: ") as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    with pytest.raises(OSError):  # noqa: PT011, the system's own words
        digest(path)


def test_a_socket_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket may have only about a hundred characters
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("run.json")
        with pytest.raises(ValueError, match=r"run\.json cannot be read: "):
            read_json(Path("run.json"))


def test_a_link_that_leaves_a_directory_is_refused(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (run / "seed-0000").mkdir(parents=True)
    elsewhere.mkdir()
    (run / "seed-0001").symlink_to(elsewhere)
    (run / "seed-0002").symlink_to("seed-0000")
    (run / "seed-0003").symlink_to("seed-0003")
    (tmp_path / "link").symlink_to(run)
    for place in (run / "seed-0000", run / "seed-0002", run / "seed-0003", run / "new" / "file"):
        refuse_way_out(place, run)
    refuse_way_out(tmp_path / "link" / "seed-0000", tmp_path / "link")
    refuse_way_out(tmp_path / "link" / "seed-0000", run)
    for place in (run / "seed-0001", run / "seed-0001" / "model.safetensors", run / ".." / "elsewhere"):
        with pytest.raises(ValueError, match="a symbolic link leads .* out of"):
            refuse_way_out(place, run)
