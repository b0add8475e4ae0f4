from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer

from seedvote.data import arrays, prepare
from seedvote.data.archive import physical_memory

INPUTS = np.arange(24, dtype=np.float32).reshape(6, 4)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def saved(file: Path, **contents: np.ndarray) -> str:
    np.savez(file, **contents)
    return str(file)


def refused(file: str) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        arrays(file)
    return str(caught.value)


def test_the_whole_is_left_to_be_carved(tmp_path):
    source = arrays(saved(tmp_path / "a.npz", inputs=INPUTS, labels=LABELS))
    assert source.test is None
    assert torch.equal(source.train.inputs, torch.from_numpy(INPUTS))
    assert source.train.labels.tolist() == LABELS.tolist()
    assert source.classes == ("0", "1", "2")


def test_official_splits_and_class_names(tmp_path):
    file = tmp_path / "a.npz"
    np.savez_compressed(
        file,
        train_inputs=INPUTS,
        train_labels=LABELS.astype(np.uint8),
        test_inputs=INPUTS[:2] + 1,
        test_labels=LABELS[:2],
        classes=np.array(["cat", "dog", "Füchse"]),
        unrelated=np.array({"an": "object"}, dtype=object),
    )
    source = arrays(str(file))
    assert source.classes == ("cat", "dog", "Füchse")
    assert torch.equal(source.test.inputs, torch.from_numpy(INPUTS[:2] + 1))
    assert source.train.labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4", np.longdouble])
def test_other_floats_become_float32(dtype, tmp_path):
    file = saved(tmp_path / "a.npz", inputs=np.asfortranarray(INPUTS.astype(dtype)), labels=LABELS.astype(">i2"))
    source = arrays(file)
    assert torch.equal(source.train.inputs, torch.from_numpy(INPUTS))
    assert source.train.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("shape", "becomes"),
    [((6, 5, 4), (6, 1, 5, 4)), ((6, 3, 5, 4), (6, 3, 5, 4)), ((6, 1, 3, 3), (6, 1, 3, 3)), ((6, 7), (6, 7))],
)
def test_shapes_of_images_and_vectors(shape, becomes, tmp_path):
    inputs = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    source = arrays(saved(tmp_path / "a.npz", inputs=inputs, labels=LABELS))
    assert source.train.inputs.dtype == torch.uint8
    np.testing.assert_array_equal(source.train.inputs.numpy(), inputs.reshape(becomes))


def test_a_real_table_goes_all_the_way(tmp_path):
    table = load_breast_cancer()
    file = saved(tmp_path / "a.npz", inputs=table.data, labels=table.target, classes=table.target_names)
    data = prepare(arrays(file), name="cancer", split_seed=3, validation=0.1, test=0.2, limit=None, normalize=True)
    assert data.classes == ("malignant", "benign")
    assert (len(data.train), len(data.validation), len(data.test)) == (398, 57, 114)
    assert data.input_shape == (30,)


MISTAKES = {
    "no labels": ({"inputs": INPUTS}, "holds no array 'labels' (there are: inputs): save it by that name."),
    "no test": (
        {"train_inputs": INPUTS, "train_labels": LABELS},
        "holds no array 'test_inputs' (there are: train_inputs, train_labels): save it by that name.",
    ),
    "both": (
        {"train_inputs": INPUTS, "inputs": INPUTS},
        "holds both 'train_inputs' and inputs/labels: keep either the four arrays",
    ),
    "nan": (
        {"inputs": np.where(INPUTS == 5, np.nan, INPUTS), "labels": LABELS},
        "1 of 6 samples of 'inputs' in",
    ),
    "lengths": (
        {"inputs": INPUTS, "labels": LABELS[:5]},
        "has shape (5,), but there are 6 inputs: wanted one label a sample.",
    ),
    "float labels": (
        {"inputs": INPUTS, "labels": LABELS / 2},
        "is float64: wanted integers, class indices from 0.",
    ),
    "integers": (
        {"inputs": INPUTS.astype(int), "labels": LABELS},
        "is int64: wanted uint8 (0 to 255, raw images) or float32; convert it before you save it.",
    ),
    "objects": (
        {"inputs": INPUTS.astype(object), "labels": LABELS},
        "holds pickled Python objects, which could run code when read: save plain numbers",
    ),
    "object classes": (
        {"inputs": INPUTS, "labels": LABELS, "classes": np.array(["a", "b", "c"], dtype=object)},
        "'classes' in",
    ),
    "structured": (
        {"inputs": np.zeros(6, dtype=[("a", "f4")]), "labels": LABELS},
        "has dtype [('a', '<f4')]: wanted plain numbers or strings.",
    ),
    "channels last": (
        {"inputs": np.zeros((6, 8, 9, 3), dtype=np.uint8), "labels": LABELS},
        "looks like channels in the last place: save inputs.transpose(0, 3, 1, 2), so that it becomes "
        "[samples, channels, height, width].",
    ),
    "one axis": ({"inputs": np.zeros(6), "labels": LABELS}, "has shape (6,): wanted [samples, features],"),
    "scalar": ({"inputs": np.float32(6), "labels": LABELS}, "has shape (): wanted [samples, features],"),
    "gap": (
        {"inputs": INPUTS, "labels": LABELS + 10**15},
        "is 1000000000000002 but there are only 6 training samples: labels are class indices",
    ),
    "classes of numbers": (
        {"inputs": INPUTS, "labels": LABELS, "classes": np.arange(3)},
        "has dtype int64 and shape (3,): wanted a list of strings.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsuitable_arrays_are_refused_in_a_sentence(mistake, tmp_path):
    contents, sentence = MISTAKES[mistake]
    file = saved(tmp_path / "a.npz", **contents)
    assert sentence in refused(file)
    assert repr(file) in refused(file)


def test_files_that_are_missing_or_something_else(tmp_path):
    missing = str(tmp_path / "missing.npz")
    assert refused(missing) == (
        f"there is no file {missing!r}: give the path of a .npz file, as numpy.savez writes it."
    )
    np.save(tmp_path / "a.npy", INPUTS)
    assert "is no .npz file or a damaged one (" in refused(str(tmp_path / "a.npy"))
    assert "there is no file" in refused(str(tmp_path))


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


def test_a_pickle_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = saved(tmp_path / "a.npz", inputs=np.array([Trap()] * 6, dtype=object), labels=LABELS)
    assert "holds pickled Python objects" in refused(file)
    assert not (tmp_path / "sprung").exists()


def with_header(file: Path, shape: tuple[int, ...], data: bytes, descr: str = "<f4") -> str:
    """An archive whose ``inputs`` claim a shape that their bytes may not have."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inputs.npy", stream.getvalue() + data)
        labels = io.BytesIO()
        np.save(labels, LABELS)
        archive.writestr("labels.npy", labels.getvalue())
    return str(file)


@pytest.mark.parametrize("shape", [(6, 10**14), (2**62, 4), (2**32, 2**32), (-6, -4), (6, 3), (0, 10**18)])
def test_a_claimed_shape_that_the_bytes_do_not_have_is_refused_before_allocation(shape, tmp_path):
    assert with_header(tmp_path / "a.npz", shape, bytes(96)) is not None
    assert "is no .npz file or a damaged one (inputs.npy states" in refused(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("descr", ["|V0", "<U0", "|S0"])
def test_elements_without_size_cannot_stand_for_endless_lists(descr, tmp_path):
    file = with_header(tmp_path / "a.npz", (10**15,), b"", descr)
    assert "wanted plain numbers or strings" in refused(file)


def test_a_zip_bomb_is_refused_before_allocation(tmp_path, monkeypatch):
    monkeypatch.setattr("seedvote.data.archive.physical_memory", lambda: 2**20)
    file = tmp_path / "a.npz"
    np.savez_compressed(file, inputs=np.zeros((2**18, 2), dtype=np.float32), labels=np.zeros(2**18, dtype=int))
    assert file.stat().st_size < 2**14
    assert (
        "have 0.0 GiB and splitting them takes 2 times as much, but there are 0.0 GiB of memory: save fewer or "
        "smaller samples." in refused(str(file))
    )


def test_physical_memory_is_a_plausible_number():
    assert 2**28 < physical_memory() < 2**50


def test_a_flipped_bit_is_noticed(tmp_path):
    file = Path(saved(tmp_path / "a.npz", inputs=INPUTS, labels=LABELS))
    contents = bytearray(file.read_bytes())
    contents[contents.index(INPUTS.tobytes()) + 40] ^= 1
    file.write_bytes(contents)
    assert "Bad CRC-32" in refused(str(file))


def npz_bytes(compressed: bool) -> bytes:
    stream = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(stream, inputs=INPUTS, labels=LABELS, classes=np.array(["a", "b", "c"]))
    return stream.getvalue()


VALID = {compressed: npz_bytes(compressed) for compressed in (False, True)}


@given(
    compressed=st.booleans(),
    cut=st.none() | st.integers(0, 2000),
    flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), max_size=6),
    tail=st.binary(max_size=20),
)
@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_files_bring_value_errors_and_nothing_else(compressed, cut, flips, tail, tmp_path):
    contents = bytearray(VALID[compressed])
    for position, mask in flips:
        contents[position % len(contents)] ^= mask
    file = tmp_path / "fuzzed.npz"
    file.write_bytes(bytes(contents[:cut]) + tail)
    sentence = None
    try:
        source = arrays(str(file))
    except ValueError as error:
        sentence = str(error)
    if sentence is None:  # the damage fell on bytes that carry no meaning
        assert torch.equal(source.train.inputs, torch.from_numpy(INPUTS))
        assert source.train.labels.tolist() == LABELS.tolist()
    else:
        assert "\n" not in sentence
        assert str(file) in sentence


@given(contents=st.binary(max_size=200))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_refused(contents, tmp_path):
    file = tmp_path / "random.npz"
    file.write_bytes(contents)
    with pytest.raises(ValueError, match=r"is no \.npz file or a damaged one"):
        arrays(str(file))


@given(header=st.binary(max_size=80))
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_sound_archives_of_strange_members_are_refused(header, tmp_path):
    file = tmp_path / "strange.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inputs.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        archive.writestr("labels.npy", header)
    with pytest.raises(ValueError, match=r"is no \.npz file or a damaged one"):
        arrays(str(file))
