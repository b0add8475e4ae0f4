from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import InterpolationMode, pil_to_tensor, resize

from seedvote.data import decode_image, image_folder, prepare
from seedvote.data.image_files import image_extensions
from seedvote.types import Source

SHARED = Path(os.environ.get("SEEDVOTE_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "datasets"))
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def picture(seed: int, width: int = 12, height: int = 9) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_folder(top: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> None:
    for label, name in enumerate(classes):
        (top / name).mkdir(parents=True)
        for index in range(count):
            picture(100 * label + index).save(top / name / f"{index}.png")


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a folder with the cache in a place of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def reader(root: Path, size: int = 8, channels: int = 3, cache: str | None = None) -> Source:
        return image_folder(str(root), size, channels, cache, 2)

    return reader


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "seedvote").iterdir())


def refused(read, root: Path) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        read(root)
    return str(caught.value)


def test_one_folder_a_class_without_an_official_test_split(tmp_path, read):
    write_folder(tmp_path / "animals", ("dog", "cat", "fox"))
    source = read(tmp_path / "animals")
    assert source.test is None
    assert source.classes == ("cat", "dog", "fox")
    assert source.train.inputs.shape == (9, 3, 8, 8)
    assert source.train.inputs.dtype == torch.uint8
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_pixels_agree_with_torchvision(tmp_path, read):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test")
    source = read(tmp_path)
    for split, part in ((source.train, "train"), (source.test, "test")):
        oracle = ImageFolder(str(tmp_path / part))
        assert list(source.classes) == oracle.classes
        assert split.labels.tolist() == oracle.targets
        for position in range(len(oracle)):
            image, _ = oracle[position]
            smaller = resize(image, [8, 8], InterpolationMode.BILINEAR, antialias=True)
            assert torch.equal(split.inputs[position], pil_to_tensor(smaller))


def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path):
    picture(1, 8, 8).save(tmp_path / "one.png")
    pixels = decode_image(tmp_path / "one.png", 3, 8, 8)
    np.testing.assert_array_equal(pixels, np.asarray(picture(1, 8, 8)).transpose(2, 0, 1))
    assert pixels.flags.c_contiguous


def test_height_and_width_are_not_mixed_up(tmp_path):
    picture(1, width=7, height=5).save(tmp_path / "one.png")
    grey = decode_image(tmp_path / "one.png", 1, 5, 7)
    np.testing.assert_array_equal(grey[0], np.asarray(picture(1, 7, 5).convert("L")))


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees when it was taken
    picture(1, 6, 4).save(tmp_path / "one.png", exif=exif)
    turned = np.rot90(np.asarray(picture(1, 6, 4)), k=-1)
    np.testing.assert_array_equal(decode_image(tmp_path / "one.png", 3, 6, 4), turned.transpose(2, 0, 1))


def test_sixteen_bit_grey_is_scaled_not_cut_off(tmp_path):
    levels = np.array([[0, 256, 32768], [257 * 7, 65535, 33023]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    expected = np.round(levels / 257)
    np.testing.assert_array_equal(decode_image(tmp_path / "deep.png", 1, 2, 3)[0], expected)
    np.testing.assert_array_equal(decode_image(tmp_path / "deep.png", 3, 2, 3)[2], expected)


def test_pixels_without_a_stated_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match=r"pixels of mode 'F' .* have no stated range: save 8 or 16 bits"):
        decode_image(tmp_path / "float.tiff", 1, 4, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_usual_mode_is_decoded(mode, channels, tmp_path):
    ending = "tiff" if mode == "CMYK" else "png"
    picture(1, 8, 8).convert(mode).save(tmp_path / f"one.{ending}")
    pixels = decode_image(tmp_path / f"one.{ending}", channels, 8, 8)
    expected = picture(1, 8, 8).convert(mode).convert("L" if channels == 1 else "RGB")
    np.testing.assert_array_equal(pixels, np.asarray(expected).reshape(8, 8, channels).transpose(2, 0, 1))


def test_a_wrong_extension_does_not_matter(tmp_path):
    picture(1, 8, 8).save(tmp_path / "one.png")
    (tmp_path / "one.png").rename(tmp_path / "one.jpg")
    np.testing.assert_array_equal(
        decode_image(tmp_path / "one.jpg", 3, 8, 8), np.asarray(picture(1, 8, 8)).transpose(2, 0, 1)
    )


def test_formats_that_start_other_programs_are_no_images(tmp_path):
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tiff"} <= image_extensions()
    assert not {".eps", ".ps", ".pdf", ".h5", ".mpg", ".wmf"} & image_extensions()
    picture(1).save(tmp_path / "one.eps")
    (tmp_path / "one.eps").rename(tmp_path / "one.png")
    with pytest.raises(ValueError, match="it is no image, or none of a format that Pillow decodes"):
        decode_image(tmp_path / "one.png", 3, 8, 8)


def test_other_files_hidden_files_and_upper_case(tmp_path, read):
    write_folder(tmp_path / "animals", count=1)
    cats = tmp_path / "animals" / "cat"
    (cats / "notes.txt").write_text("no image")
    (cats / ".hidden.png").write_bytes(b"no image")
    (cats / "directory.png").mkdir()
    os.mkfifo(cats / "pipe.png")
    (tmp_path / "animals" / ".thumbnails").mkdir()
    (tmp_path / "animals" / "read me.txt").write_text("no class")
    picture(7).save(cats / "UPPER.PNG")
    source = read(tmp_path / "animals")
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 0, 1]


def test_links_to_images_count_and_broken_ones_are_named(tmp_path, read):
    write_folder(tmp_path / "animals", count=1)
    (tmp_path / "animals" / "cat" / "link.png").symlink_to(tmp_path / "animals" / "dog" / "0.png")
    assert len(read(tmp_path / "animals").train) == 3
    (tmp_path / "animals" / "cat" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    assert "'cat/broken.png' (" in refused(read, tmp_path / "animals")


def test_a_class_may_be_called_train(tmp_path, read):
    write_folder(tmp_path / "vehicles", ("car", "plane", "train"))
    assert read(tmp_path / "vehicles").classes == ("car", "plane", "train")


def test_train_without_test_is_carved_later(tmp_path, read):
    write_folder(tmp_path / "animals" / "train")
    source = read(tmp_path / "animals")
    assert source.test is None
    assert source.classes == ("cat", "dog")


def test_a_class_may_be_missing_from_test(tmp_path, read):
    write_folder(tmp_path / "animals" / "train")
    write_folder(tmp_path / "animals" / "test", ("dog",))
    assert read(tmp_path / "animals").test.labels.tolist() == [1, 1, 1]


def test_the_cache_is_used_and_follows_the_files(tmp_path, read, monkeypatch):
    write_folder(tmp_path / "animals")
    first = read(tmp_path / "animals").train
    assert len(cached(tmp_path)) == 1
    with monkeypatch.context() as patched:
        patched.setattr("seedvote.data.image_files.decode_image", None)  # nothing may be decoded again
        second = read(tmp_path / "animals").train
    assert torch.equal(first.inputs, second.inputs)
    picture(55).save(tmp_path / "animals" / "cat" / "1.png")
    changed = read(tmp_path / "animals").train
    assert not torch.equal(first.inputs, changed.inputs)
    read(tmp_path / "animals", size=5)
    read(tmp_path / "animals", channels=1)
    assert len(cached(tmp_path)) == 4
    read(tmp_path / "animals", cache=str(tmp_path / "elsewhere"))
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_the_cache_knows_files_by_name_size_and_time_not_by_place(tmp_path, read):
    write_folder(tmp_path / "animals")
    first = read(tmp_path / "animals").train
    (tmp_path / "animals").rename(tmp_path / "moved")
    assert torch.equal(read(tmp_path / "moved").train.inputs, first.inputs)
    assert len(cached(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "zip", "other shape", "other dtype"])
def test_a_damaged_cache_is_made_anew(damage, tmp_path, read):
    write_folder(tmp_path / "animals")
    intact = read(tmp_path / "animals").train.inputs.clone()
    file = cached(tmp_path)[0]
    contents = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(contents[:-1])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "garbage":
        file.write_bytes(contents[:8] + b"\xff" * 200)
    elif damage == "zip":
        np.savez(tmp_path / "other.npz", a=1)
        (tmp_path / "other.npz").replace(file)
    else:
        other = np.zeros((2, 3)) if damage == "other shape" else intact.numpy().astype(np.int8)
        with file.open("wb") as stream:
            np.save(stream, other)
    assert torch.equal(read(tmp_path / "animals").train.inputs, intact)
    assert file.read_bytes() == contents


def test_writing_to_the_inputs_leaves_the_cache_alone(tmp_path, read):
    write_folder(tmp_path / "animals")
    inputs = read(tmp_path / "animals").train.inputs
    contents = cached(tmp_path)[0].read_bytes()
    inputs.zero_()
    assert cached(tmp_path)[0].read_bytes() == contents


def test_unreadable_training_files_are_all_named_and_nothing_is_cached(tmp_path, read):
    write_folder(tmp_path / "animals", count=4)
    for index in range(4):
        file = tmp_path / "animals" / "dog" / f"{index}.png"
        file.write_bytes(file.read_bytes()[: 20 * index])
    sentence = refused(read, tmp_path / "animals")
    assert sentence.startswith(f"4 of 8 image files under {str(tmp_path / 'animals')!r} cannot be read: ")
    assert "'dog/0.png' (" in sentence
    assert "'dog/2.png' (" in sentence
    assert "'dog/3.png' (" not in sentence
    assert sentence.endswith("; ...: repair them or move them away.")
    assert cached(tmp_path) == []


def test_a_decompression_bomb_is_unreadable(tmp_path, read, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    write_folder(tmp_path / "animals")  # 108 pixels each
    picture(1, 15, 15).save(tmp_path / "animals" / "cat" / "warned about.png")
    picture(1, 30, 30).save(tmp_path / "animals" / "cat" / "refused.png")
    sentence = refused(read, tmp_path / "animals")
    assert sentence.startswith("2 of 8 image files under")
    assert "exceeds limit of" in sentence


def test_harmless_warnings_of_the_decoder_do_not_stop_us(tmp_path, read):
    write_folder(tmp_path / "animals")
    palette = picture(3).convert("P")
    palette.save(tmp_path / "animals" / "cat" / "palette.png", transparency=bytes(range(256)))
    assert len(read(tmp_path / "animals").train) == 7


def test_missing_and_empty_folders_are_named(tmp_path, read):
    missing = tmp_path / "missing"
    assert refused(read, missing) == (
        f"there is no folder {str(missing)!r}: set data.root to the folder that holds the images."
    )
    (tmp_path / "flat").mkdir()
    picture(1).save(tmp_path / "flat" / "one.png")
    assert refused(read, tmp_path / "flat") == (
        f"{str(tmp_path / 'flat')!r} holds no class folders: put the images of each class into a folder of "
        "that class's name."
    )
    write_folder(tmp_path / "animals")
    (tmp_path / "animals" / "fox").mkdir()
    assert refused(read, tmp_path / "animals") == (
        f"empty class folder: {str(tmp_path / 'animals' / 'fox')!r} holds no image file, so add images or remove it."
    )


def test_unlabelled_images_in_train_and_test_are_no_two_classes(tmp_path, read):
    write_folder(tmp_path / "animals", ("train", "test"))
    sentence = refused(read, tmp_path / "animals")
    assert sentence.startswith(f"{str(tmp_path / 'animals' / 'train')!r} holds no class folders: ")


def test_test_classes_that_train_has_not_are_named(tmp_path, read):
    write_folder(tmp_path / "animals" / "train")
    write_folder(tmp_path / "animals" / "test", ("dog", "fox"))
    assert refused(read, tmp_path / "animals") == (
        f"{str(tmp_path / 'animals' / 'test')!r} has classes that {str(tmp_path / 'animals' / 'train')!r} has "
        "not ('fox'): nothing could learn them, so add training images or remove them."
    )


@pytest.mark.parametrize(
    ("size", "channels", "workers", "sentence"),
    [
        (0, 3, None, "data.channels=3 and data.size=0: wanted channels 1 (grey) or 3 (RGB) and a size of 1 "),
        (10**9, 3, None, "data.size=1000000000: wanted channels 1 (grey) or 3 (RGB) and a size of 1 to 4096 pixels."),
        (8, 4, None, "data.channels=4 and data.size=8: wanted channels 1 (grey) or 3 (RGB)"),
        (8, 3, 0, "data.workers=0: wanted 1 to 256 threads, or null for one a core."),
    ],
)
def test_impossible_arguments_are_refused(size, channels, workers, sentence, tmp_path):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        image_folder(str(tmp_path), size, channels, None, workers)
    assert sentence in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, read):
    write_folder(tmp_path / "animals")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="the decoded images cannot be kept in") as caught:
        read(tmp_path / "animals", cache=str(tmp_path / "file" / "below"))
    assert "set data.cache to a directory with 1 MiB of room." in str(caught.value)


@pytest.mark.datasets
@pytest.mark.skipif(
    not (SHARED / "cifar10" / "test.zip").is_file(),
    reason=f"no CIFAR-10 archives under {SHARED} (set SEEDVOTE_TEST_DATA)",
)
def test_real_cifar10_images_are_decoded_pixel_by_pixel(tmp_path, read):
    with zipfile.ZipFile(SHARED / "cifar10" / "test.zip") as archive:
        names = [f"test/{name}/{index:04d}.webp" for name in CIFAR10 for index in range(20)]
        archive.extractall(tmp_path, names)
        source = read(tmp_path / "test", size=32)
        for position in (0, 21, 199):
            with Image.open(io.BytesIO(archive.read(names[position]))) as image:
                expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            np.testing.assert_array_equal(source.train.inputs[position].numpy(), expected)
    assert source.classes == CIFAR10
    assert torch.bincount(source.train.labels).tolist() == [20] * 10
    data = prepare(source, name="cifar", split_seed=0, validation=0.1, test=0.2, limit=None, normalize=True)
    assert (len(data.train), len(data.validation), len(data.test)) == (140, 20, 40)
    means = [mean / 255 for mean in data.normalization.mean]
    assert means == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.04)  # of all training images; here 140
