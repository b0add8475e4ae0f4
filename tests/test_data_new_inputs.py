from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seedvote.data import decode_image, read_arrays, read_image_folder

INPUTS = np.arange(24, dtype=np.float32).reshape(6, 4)


def picture(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def saved(file: Path, **contents: np.ndarray) -> str:
    np.savez(file, **contents)
    return str(file)


def test_images_are_found_at_any_depth_and_decoded_as_in_training(tmp_path):
    names = ["a.png", "b/c.jpg", "b/d/e.webp", "z.PNG"]
    for seed, name in enumerate(names):
        picture(tmp_path / name, seed)
    picture(tmp_path / ".hidden" / "x.png", 9)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    inputs, paths, messages = read_image_folder(str(tmp_path), (3, 5, 6))
    assert paths == names
    assert messages == []
    assert inputs.dtype == torch.uint8
    assert inputs.shape == (4, 3, 5, 6)
    for position, name in enumerate(names):
        np.testing.assert_array_equal(inputs[position].numpy(), decode_image(tmp_path / name, 3, 5, 6))


def test_unreadable_images_are_named_and_the_others_stay_in_step(tmp_path):
    for index in range(5):
        picture(tmp_path / f"{index}.png", index)
    (tmp_path / "1.png").write_bytes(b"no image")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    inputs, paths, messages = read_image_folder(str(tmp_path), (1, 4, 4))
    assert paths == ["0.png", "2.png", "4.png"]
    assert [message.split(" cannot be read: ")[0] for message in messages] == ["'1.png'", "'3.png'"]
    np.testing.assert_array_equal(inputs[1].numpy(), decode_image(tmp_path / "2.png", 1, 4, 4))


def test_folders_without_images_are_refused(tmp_path):
    missing = str(tmp_path / "missing")
    with pytest.raises(ValueError, match="there is no folder") as caught:
        read_image_folder(missing, (3, 4, 4))
    assert str(caught.value) == f"there is no folder {missing!r}: give the folder that holds the images."
    with pytest.raises(ValueError, match="holds no image file") as caught:
        read_image_folder(str(tmp_path), (3, 4, 4))
    assert str(caught.value) == (
        f"{str(tmp_path)!r} holds no image file: give a folder with images such as .png or .jpg files."
    )
    (tmp_path / "one.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the 1 image files under .* can be read: 'one.png' cannot"):
        read_image_folder(str(tmp_path), (3, 4, 4))


@pytest.mark.parametrize("shape", [(30,), (4, 8, 8)])
def test_a_run_that_takes_no_pictures_says_so(shape, tmp_path):
    picture(tmp_path / "a.png", 0)
    with pytest.raises(ValueError, match="not grey or RGB images") as caught:
        read_image_folder(str(tmp_path), shape)
    assert str(caught.value) == (
        f"the run takes inputs of shape {shape}, not grey or RGB images: give a .npz file with an array "
        "'inputs' instead of a folder."
    )


def test_arrays_with_and_without_labels(tmp_path):
    inputs, labels = read_arrays(saved(tmp_path / "a.npz", inputs=INPUTS), (4,), torch.float32)
    assert torch.equal(inputs, torch.from_numpy(INPUTS))
    assert labels is None
    file = saved(tmp_path / "b.npz", inputs=INPUTS.astype(np.float64), labels=np.arange(6))
    inputs, labels = read_arrays(file, (4,), torch.float32)
    assert inputs.dtype == torch.float32
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    grey = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    inputs, _ = read_arrays(saved(tmp_path / "c.npz", inputs=grey), (1, 3, 4), torch.uint8)
    np.testing.assert_array_equal(inputs[:, 0].numpy(), grey)


MISTAKES = {
    "shape": ({"inputs": INPUTS[:, :3]}, "holds samples of shape (3,), but the run takes (4,): bring them"),
    "dtype": ({"inputs": INPUTS.astype(np.uint8)}, "is uint8, but the run was trained on float32: save them"),
    "nan": ({"inputs": np.full((6, 4), np.nan)}, "6 of 6 samples of 'inputs' in"),
    "empty": ({"inputs": INPUTS[:0]}, "holds no sample: wanted at least one."),
    "name": ({"x": INPUTS}, "holds no array 'inputs' (there are: x): save it by that name."),
    "labels": ({"inputs": INPUTS, "labels": np.arange(5)}, "has shape (5,), but there are 6 inputs"),
    "objects": ({"inputs": INPUTS.astype(object)}, "holds pickled Python objects"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_arrays_that_do_not_suit_the_run_are_refused(mistake, tmp_path):
    contents, sentence = MISTAKES[mistake]
    file = saved(tmp_path / "a.npz", **contents)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        read_arrays(file, (4,), torch.float32)
    assert sentence in str(caught.value)
    assert repr(file) in str(caught.value)
