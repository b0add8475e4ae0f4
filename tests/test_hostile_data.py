"""Data files made to hurt: refused by name, in bounded memory, with nothing written but the cache."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seedvote.data import arrays, decode_image, image_files, image_folder, prepare, read_arrays, read_image_folder
from seedvote.types import Source, Split

ROOT = Path(__file__).resolve().parent.parent
INPUTS = np.arange(24, dtype=np.float32).reshape(6, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def npy(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def npz(file: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(file)


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def refused(read, *arguments: object) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        read(*arguments)
    return str(caught.value)


def tree(top: Path) -> dict[str, object]:
    """Every file under a directory with its size and time, every folder and link."""
    return {
        str(path): (path.lstat().st_mode, path.is_dir() or (path.lstat().st_size, path.lstat().st_mtime_ns))
        for path in [top, *top.rglob("*")]
    }


def in_little_memory(code: str, *arguments: str, mib: int = 256) -> subprocess.CompletedProcess[str]:
    """Run a program that may take so many MiB more once seedvote is imported."""
    before = (
        "import resource, sys; from pathlib import Path; from seedvote.data import *\n"
        "taken = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (taken + {mib} * 2**20,) * 2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, "-c", before + code, *arguments],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


REFUSE = "try: {}\nexcept ValueError as error: print(error)"
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="says how much memory a process has")


@needs_proc
def test_a_zip_bomb_is_refused_in_little_memory(tmp_path):
    file = tmp_path / "bomb.npz"
    zeros = np.zeros((2**18, 300), np.float32)  # 300 MiB
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("inputs.npy", "w") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": zeros.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for _ in range(300):
            stream.write(bytes(2**20))
        archive_labels = saved(np.zeros(2**18, np.int64))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", archive_labels)
    assert file.stat().st_size < 2**20
    found = in_little_memory(REFUSE.format("arrays(sys.argv[1])"), str(file), mib=128)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    assert "memory" in found.stdout and repr(str(file)) in found.stdout
    assert len(found.stdout.splitlines()) == 1


@pytest.mark.parametrize("version", [1, 2])
def test_a_header_that_is_a_bomb_is_not_unpacked(version, tmp_path):
    spaces = b" " * (2**16 - 1 if version == 1 else 2**27)
    file = npz(tmp_path / "a.npz", {"inputs.npy": npy(spaces, version=version), "labels.npy": saved(LABELS)})
    tracemalloc.start()
    try:
        assert "is no .npz file or a damaged one (" in refused(arrays, file)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_eight_exbibytes_claimed_by_every_header_are_refused(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1073741824, 1073741823)}\n"
    content = npy(header)
    stated = len(content) + 8 * 1073741824 * 1073741823
    file = Path(npz(tmp_path / "a.npz", {"inputs.npy": content}))
    with zipfile.ZipFile(file, "w") as archive:
        member = zipfile.ZipInfo("inputs.npy")
        with archive.open(member, "w", force_zip64=True) as stream:
            stream.write(content)
        member.file_size = stated  # written to the directory at the end
        archive.writestr("labels.npy", saved(LABELS))
    assert "have 8589934584.0 GiB and splitting them takes 2 times as much" in refused(arrays, str(file))


@pytest.mark.parametrize("shape", [(10**15, 0), (10**9, 3, 0, 10**9), (2**62, 0)])
@pytest.mark.parametrize("descr", ["<f4", "|u1", "<f8"])
def test_endless_samples_without_a_number_are_refused(shape, descr, tmp_path):
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    file = npz(tmp_path / "a.npz", {"inputs.npy": npy(header), "labels.npy": saved(LABELS)})
    for sentence in (refused(arrays, file), refused(read_arrays, file, (4,), torch.float32)):
        assert "samples hold no number at all" in sentence or "damaged" in sentence
        assert repr(file) in sentence


@pytest.mark.parametrize("code", [0x110000, 0xFFFFFFFF, 0xD800, 0xDFFF])
def test_class_names_of_no_characters_are_refused(code, tmp_path):
    names = np.frombuffer(np.array([65, code, 66], np.uint32).tobytes(), "<U1")
    file = npz(
        tmp_path / "a.npz", {"inputs.npy": saved(INPUTS), "labels.npy": saved(LABELS), "classes.npy": saved(names)}
    )
    assert (
        refused(arrays, file) == f"'classes' in {file!r} holds numbers that are no characters: save a list of strings."
    )


@pytest.mark.parametrize("name", ["cat\x1b]0;you\x07", "over\rwritten", "\x00", "\x9b2J", "\udcff", "long" * 100])
def test_class_names_that_steer_a_terminal_are_refused(name):
    split = Split(torch.from_numpy(INPUTS[:4]), torch.tensor([0, 1, 0, 1]))
    sentence = refused(
        lambda: prepare(
            Source(split, split, ("dog", name)),
            name="x", split_seed=0, validation=0.5, test=None, limit=None, normalize=True,
        )
    )  # fmt: skip
    assert sentence.startswith(f"the class name {name[:255]!r} holds control characters or bytes that are no UTF-8")


@pytest.mark.parametrize("name", ["cat", "Füchse", "猫", "🦊", "a b", "two\nlines", "e\u0301", "\u00a0x"])
def test_class_names_in_any_script_are_taken(name):
    split = Split(torch.from_numpy(INPUTS[:4]), torch.tensor([0, 1, 0, 1]))
    data = prepare(
        Source(split, split, ("dog", name)),
        name="x", split_seed=0, validation=0.5, test=None, limit=None, normalize=True,
    )  # fmt: skip
    assert data.classes == ("dog", name)


def test_names_that_climb_out_of_an_archive_are_only_names(tmp_path):
    (tmp_path / "inner").mkdir()
    members = {f"{up}inputs.npy": saved(INPUTS) for up in ("../", "/", "../../", "C:\\")}
    file = npz(tmp_path / "inner" / "a.npz", {**members, "inputs.npy": saved(INPUTS), "labels.npy": saved(LABELS)})
    before = tree(tmp_path)
    assert torch.equal(arrays(file).train.inputs, torch.from_numpy(INPUTS))
    assert tree(tmp_path) == before
    only = npz(tmp_path / "inner" / "b.npz", {"../inputs.npy": saved(INPUTS), "labels.npy": saved(LABELS)})
    assert "holds no array 'inputs' (there are: ../inputs, labels)" in refused(arrays, only)


def test_an_encrypted_or_unknown_packing_is_refused(tmp_path):
    for offset, value in ((6, 1), (8, 99)):  # flags: encrypted; method: unknown
        file = Path(npz(tmp_path / "a.npz", {"inputs.npy": saved(INPUTS), "labels.npy": saved(LABELS)}))
        content = bytearray(file.read_bytes())
        central = content.index(b"PK\x01\x02")
        content[offset] = content[central + offset + 2] = value
        file.write_bytes(content)
        assert "is no .npz file or a damaged one (" in refused(arrays, str(file))


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of grey pixels whose header says what it is told to."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


HUGE = {
    "png": png(10**5, 10**5),
    "widest.png": png(2**31 - 1, 2**31 - 1),
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 10**5, 10**5, 1, 24, 0, 0, 0, 0, 0, 0),
    "pgm": b"P5 100000 100000 255\n",
    "tga": struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 65535, 65535, 24, 0),
}


@pytest.mark.parametrize("kind", HUGE)
def test_an_image_that_claims_ten_thousand_megapixels_is_refused(kind, tmp_path):
    file = tmp_path / f"a.{kind}"
    file.write_bytes(HUGE[kind])
    assert "pixels" in refused(decode_image, file, 3, 8, 8)


@needs_proc
def test_huge_images_are_left_out_in_little_memory(tmp_path):
    for kind, content in HUGE.items():
        (tmp_path / f"a.{kind}").write_bytes(content)
    Image.new("L", (9, 9)).save(tmp_path / "sound.png")
    code = "_, names, messages = read_image_folder(sys.argv[1], (3, 8, 8)); print(names, len(messages))"
    found = in_little_memory(code, str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"['sound.png'] {len(HUGE)}\n"
    assert found.stderr == ""


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    for index in range(8):
        Image.new("L", (20, 20)).save(tmp_path / f"{index}.png")
    monkeypatch.setattr(image_files, "MANY_PIXELS", 100)
    own, counting = image_files._decoded, threading.Lock()
    at_once, most = 0, 0

    def counted(*arguments):
        nonlocal at_once, most
        with counting:
            at_once += 1
            most = max(most, at_once)
        pixels = own(*arguments)
        threading.Event().wait(0.01)
        with counting:
            at_once -= 1
        return pixels

    monkeypatch.setattr(image_files, "_decoded", counted)
    for limit, expected in ((100, 1), (10**6, 4)):
        monkeypatch.setattr(image_files, "MANY_PIXELS", limit)
        most = 0
        decoded = list(
            image_files.decode_all([str(tmp_path / f"{index}.png") for index in range(8)], (1, 4, 4), 4, "x")
        )
        assert [pixels.shape for pixels in decoded] == [(1, 4, 4)] * 8
        assert most == expected


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "green", "blue")]
    for ending in ("gif", "png", "webp"):
        file = tmp_path / f"a.{ending}"
        frames[0].save(file, save_all=True, append_images=frames[1:], lossless=True)
        assert decode_image(file, 3, 1, 1).ravel().tolist() == [255, 0, 0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices as files are for POSIX")
def test_pipes_and_devices_are_neither_read_nor_waited_for(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "zero.png").symlink_to("/dev/zero")
    assert "it is no regular file" in refused(decode_image, tmp_path / "cat" / "pipe.png", 3, 8, 8)
    assert "it is no regular file" in refused(decode_image, tmp_path / "cat" / "zero.png", 3, 8, 8)
    for name in ("cat", "dog"):
        Image.new("L", (8, 8)).save(tmp_path / name / "a.png")
    assert read_image_folder(str(tmp_path), (1, 8, 8))[1:] == (["cat/a.png", "dog/a.png"], [])
    assert len(image_folder(str(tmp_path), 8, 1, str(tmp_path / "cache"), 1).train) == 2
    os.mkfifo(tmp_path / "a.npz")
    assert "there is no file" in refused(arrays, str(tmp_path / "a.npz"))


def test_links_are_followed_without_end_or_a_trace(tmp_path):
    """A class folder or an image may be a link to anywhere: data sets are made so; nothing is written there."""
    outside, top = tmp_path / "outside", tmp_path / "photos"
    outside.mkdir()
    top.mkdir()
    (top / "dog").mkdir()
    Image.new("L", (8, 8), 200).save(outside / "a.png")
    (top / "cat").symlink_to(outside)
    (top / "dog" / "b.png").symlink_to(outside / "a.png")
    (top / "dog" / "up").symlink_to(top)
    (top / "dog" / "self").symlink_to("self")
    before = tree(outside), tree(top)
    source = image_folder(str(top), 8, 1, str(tmp_path / "cache"), 1)
    assert source.classes == ("cat", "dog")
    assert source.train.inputs.tolist() == [[[[200] * 8] * 8]] * 2
    # What to predict is a tree of any depth, where links to folders could go round in circles.
    assert read_image_folder(str(top), (1, 8, 8))[1:] == (["dog/b.png"], [])
    assert (tree(outside), tree(top)) == before
    (top / "dog" / "round.png").symlink_to("round.png")
    assert "'dog/round.png' (" in refused(image_folder, str(top), 8, 1, str(tmp_path / "cache"), 1)
    assert read_image_folder(str(top), (1, 8, 8))[2][0].startswith("'dog/round.png' cannot be read: ")


def non_utf_8(directory: Path, name: bytes) -> Path:
    path = directory / os.fsdecode(name)
    try:
        path.touch()
        path.unlink()
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    return path


def test_file_names_that_are_no_utf_8_are_read_and_shown_escaped(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "sound.png")
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(non_utf_8(tmp_path, b"caf\xe9.png"))
    non_utf_8(tmp_path, b"br\xf6ken.png").write_bytes(b"no image")
    _, names, messages = read_image_folder(str(tmp_path), (1, 8, 8))
    assert names == ["caf\\xe9.png", "sound.png"]
    assert [message.split(" cannot be read")[0] for message in messages] == ["'br\\udcf6ken.png'"]
    "".join(names + messages).encode()


def test_a_class_folder_whose_name_is_no_utf_8_is_refused(tmp_path):
    for folder in (tmp_path / "dog", non_utf_8(tmp_path, b"caf\xe9")):
        folder.mkdir()
        for index in range(4):
            Image.new("L", (8, 8)).save(folder / f"{index}.png")
    source = image_folder(str(tmp_path), 8, 1, str(tmp_path / ".cache"), 1)
    sentence = refused(
        lambda: prepare(source, name="x", split_seed=0, validation=0.25, test=0.25, limit=None, normalize=True)
    )
    assert sentence.startswith("the class name 'caf\\udce9' holds control characters or bytes that are no UTF-8")


def test_folders_that_may_not_be_read_are_named(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "a.png")
    own = os.scandir

    def guarded(path):
        if os.path.basename(path) == "dog":  # what the system says to whoever is not root
            raise PermissionError(13, "Permission denied", str(path))
        return own(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert refused(image_folder, str(tmp_path), 8, 1, str(tmp_path / ".cache"), 1) == (
        f"{str(tmp_path / 'dog')!r} under data.root={str(tmp_path)!r} cannot be read: Permission denied: look at its "
        "permissions, or move it away."
    )
    _, names, messages = read_image_folder(str(tmp_path), (1, 8, 8))
    assert names == ["cat/a.png"]
    assert set(messages) == {"'dog' cannot be read: Permission denied"}
    monkeypatch.setattr(os, "scandir", lambda path: guarded(os.path.join(path, "dog")))
    assert "can be read: '" in refused(read_image_folder, str(tmp_path), (1, 8, 8))
