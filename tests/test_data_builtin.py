from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import hashlib
import http.server
import os
import pickle
import socket
import struct
import threading
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from sklearn.datasets import load_digits
from torchvision import datasets as torchvision_sets

from seedvote.data import digits, prepare, torchvision_dataset

SHARED = Path(os.environ.get("SEEDVOTE_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "datasets"))
needs_mnist = pytest.mark.skipif(
    not (SHARED / "mnist").is_dir(), reason=f"no MNIST files under {SHARED} (set SEEDVOTE_TEST_DATA)"
)


def write_idx(file: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, dataset: str, train: int = 20, test: int = 10) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    raw = root / dataset / "raw"
    raw.mkdir(parents=True)
    written = {}
    for part, count in (("train", train), ("t10k", test)):
        written[part] = generator.integers(0, 256, (count, 28, 28))
        write_idx(raw / f"{part}-images-idx3-ubyte", written[part])
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return written


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_digits_are_the_scaled_counts_of_scikit_learn():
    source = digits()
    bunch = load_digits()
    assert source.test is None
    assert source.train.inputs.dtype == torch.uint8
    assert source.train.inputs.shape == (1797, 1, 8, 8)
    assert source.train.labels.tolist() == bunch.target.tolist()
    counts = bunch.images.astype(int)
    pixels = source.train.inputs[:, 0].numpy()
    for count in range(17):
        assert set(pixels[counts == count]) == {round(count * 255 / 16)}


@pytest.mark.parametrize(("dataset", "third"), [("MNIST", "2 - two"), ("FashionMNIST", "Pullover"), ("KMNIST", "su")])
def test_idx_files_are_read_as_grey_images(dataset, third, tmp_path, capsys):
    written = write_mnist(tmp_path, dataset)
    source = torchvision_dataset(dataset, str(tmp_path), False)
    assert source.train.inputs.shape == (20, 1, 28, 28)
    assert source.test.inputs.shape == (10, 1, 28, 28)
    np.testing.assert_array_equal(source.train.inputs[:, 0].numpy(), written["train"])
    np.testing.assert_array_equal(source.test.inputs[:, 0].numpy(), written["t10k"])
    assert source.train.labels.tolist() == [*range(10), *range(10)]
    assert source.train.labels.dtype == torch.int64
    assert source.classes[2] == third
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("dataset", "classes"), [("CIFAR10", 10), ("CIFAR100", 100)])
def test_cifar_batches_become_channels_first(dataset, classes, tmp_path, monkeypatch):
    constructor = getattr(torchvision_sets, dataset)
    folder = tmp_path / constructor.base_folder
    folder.mkdir()
    generator = np.random.default_rng(0)
    files = {name: generator.integers(0, 256, (4, 3072), dtype=np.uint8)
             for name, _ in constructor.train_list + constructor.test_list}  # fmt: skip
    for name, pixels in files.items():
        key = "labels" if dataset == "CIFAR10" else "fine_labels"
        (folder / name).write_bytes(pickle.dumps({"data": pixels, key: [0, 1, 2, 3]}))
    names = [f"class {index}" for index in range(classes)]
    (folder / constructor.meta["filename"]).write_bytes(pickle.dumps({constructor.meta["key"]: names}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: os.path.isfile(path))
    source = torchvision_dataset(dataset, str(tmp_path), False)
    first = files[constructor.train_list[0][0]]
    np.testing.assert_array_equal(source.train.inputs[:4].numpy(), first.reshape(4, 3, 32, 32))
    assert len(source.train) == 4 * len(constructor.train_list)
    assert source.test.labels.tolist() == [0, 1, 2, 3]
    assert source.classes == tuple(names)


def test_svhn_digit_ten_is_zero_and_channels_come_first(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    written = {}
    for part in ("train", "test"):
        written[part] = generator.integers(0, 256, (32, 32, 3, 6), dtype=np.uint8)
        labels = np.array([[10], [1], [2], [3], [4], [9]], dtype=np.uint8)
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", {"X": written[part], "y": labels})
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5: os.path.isfile(path))
    source = torchvision_dataset("SVHN", str(tmp_path), False)
    np.testing.assert_array_equal(source.train.inputs.numpy(), written["train"].transpose(3, 2, 0, 1))
    assert source.test.labels.tolist() == [0, 1, 2, 3, 4, 9]
    assert source.classes == tuple("0123456789")


def test_usps_lines_become_grey_images(tmp_path):
    lines = "".join(
        f"{label} " + " ".join(f"{k + 1}:{(-1) ** (k + label)}" for k in range(256)) + "\n" for label in (1, 2, 10)
    )
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(bz2.compress(lines.encode()))
    source = torchvision_dataset("USPS", str(tmp_path), False)
    assert source.train.inputs.shape == (3, 1, 16, 16)
    assert source.train.inputs[0, 0, 0, :4].tolist() == [0, 255, 0, 255]
    assert source.train.labels.tolist() == [0, 1, 9]
    assert source.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("dataset", "first"),
    [
        ("MNIST", "MNIST/raw/train-images-idx3-ubyte"),
        ("FashionMNIST", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("KMNIST", "KMNIST/raw/train-images-idx3-ubyte"),
        ("CIFAR10", "cifar-10-batches-py/data_batch_1"),
        ("CIFAR100", "cifar-100-python/train"),
        ("SVHN", "train_32x32.mat"),
        ("USPS", "usps.bz2"),
    ],
)
def test_absent_files_are_named_with_what_to_do(dataset, first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is not there") as caught:
        torchvision_dataset(dataset, "here", False)
    assert str(caught.value) == (
        f"{dataset} is not there: looked for {first!r} under {str(tmp_path / 'here')!r}, and data.download is "
        "false: run with data.download=true on a machine with network, copy the files there, or set data.root "
        "to their place."
    )


@pytest.mark.parametrize("dataset", ["MNIST", "CIFAR10", "SVHN", "USPS"])
def test_a_failed_download_says_why_and_prints_nothing(dataset, tmp_path, monkeypatch, capsys):
    def no_network(*args, **kwargs):
        print("Downloading and failing")
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", no_network)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        torchvision_dataset(dataset, str(tmp_path), True)
    assert f"under {str(tmp_path)!r}, and could not be downloaded (" in str(caught.value)
    assert "no route to host" in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_a_download_fills_the_root_and_shows_its_progress(tmp_path, monkeypatch, capsys):
    written = write_mnist(tmp_path / "server", "MNIST")
    served = tmp_path / "served"
    served.mkdir()
    resources = []
    for file in sorted((tmp_path / "server" / "MNIST" / "raw").iterdir()):
        packed = gzip.compress(file.read_bytes())
        (served / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(torchvision_sets.MNIST, "resources", resources)
    with serving(served) as address:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(torchvision_sets.MNIST, "mirrors", [address])
        source = torchvision_dataset("MNIST", str(tmp_path / "fresh" / "root"), True)
    np.testing.assert_array_equal(source.train.inputs[:, 0].numpy(), written["train"])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "100%" in printed.err
    # The server is gone, and what is there is not fetched again.
    assert len(torchvision_dataset("MNIST", str(tmp_path / "fresh" / "root"), True).test) == 10


def test_a_silent_server_does_not_hold_us_for_ever(tmp_path, monkeypatch):
    seen = []

    def silent(*args, **kwargs):
        seen.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", silent)
    with pytest.raises(ValueError, match="could not be downloaded"):
        torchvision_dataset("USPS", str(tmp_path), True)
    assert seen == [30.0]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("damage", ["truncated", "empty", "labels short"])
def test_damaged_files_are_told_from_absent_ones(damage, tmp_path):
    write_mnist(tmp_path, "MNIST")
    raw = tmp_path / "MNIST" / "raw"
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    if damage == "truncated":
        images.write_bytes(images.read_bytes()[:-100])
    elif damage == "empty":
        images.write_bytes(b"")
    else:
        write_idx(labels, np.arange(19))
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        torchvision_dataset("MNIST", str(tmp_path), False)
    assert f"the MNIST files under {str(tmp_path)!r} are incomplete or damaged (" in str(caught.value)
    assert "delete them and run again with data.download=true" in str(caught.value)


def test_a_cifar_file_with_the_wrong_digest_is_damaged_and_never_unpickled(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(ValueError, match=r"the CIFAR10 files under .* are incomplete or damaged"):
        torchvision_dataset("CIFAR10", str(tmp_path), False)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("FashionMnist", "did you mean FashionMNIST?"),
        ("CIFAR-10", "did you mean CIFAR10?"),
        ("svhn", "did you mean SVHN?"),
        ("ImageNet1k", "choose one of MNIST, FashionMNIST, KMNIST, CIFAR10, CIFAR100, SVHN, USPS."),
    ],
)
def test_an_unknown_name_suggests_known_ones(name, hint):
    with pytest.raises(ValueError, match=f"data.dataset='{name}' is no torchvision data set") as caught:
        torchvision_dataset(name, "data", False)
    assert hint in str(caught.value)


@pytest.mark.datasets
@needs_mnist
def test_real_mnist_has_the_published_counts_and_statistics():
    source = torchvision_dataset("MNIST", str(SHARED / "mnist"), False)
    train = torch.bincount(source.train.labels).tolist()
    test = torch.bincount(source.test.labels).tolist()
    assert train == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    data = prepare(source, name="mnist", split_seed=0, validation=0.1, test=None, limit=None, normalize=True)
    assert (len(data.train), len(data.validation), len(data.test)) == (54000, 6000, 10000)
    assert data.normalization.mean[0] / 255 == pytest.approx(0.1307, abs=2e-4)
    assert data.normalization.std[0] / 255 == pytest.approx(0.3081, abs=2e-4)
    held_out = torch.bincount(data.validation.labels).tolist()
    assert held_out == pytest.approx([count / 10 for count in train], abs=1)


def sparse(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(2**40)


def bomb(file: Path) -> None:
    packer = bz2.BZ2Compressor()
    file.write_bytes(b"".join(packer.compress(bytes(2**20)) for _ in range(80)) + packer.flush())


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(("dataset", "replace", "reason"), [
    ("MNIST", sparse, "'train-images-idx3-ubyte' holds more than 67108864 bytes"),
    ("USPS", bomb, "'usps.bz2' holds more than 67108864 bytes"),
    ("MNIST", pipe, "it is no regular file"),
    ("USPS", pipe, "it is no regular file"),
])  # fmt: skip
def test_files_that_never_end_are_refused(dataset, replace, reason, tmp_path):
    if dataset == "USPS":
        file = tmp_path / "usps.bz2"
        file.write_bytes(b"")
    else:
        write_mnist(tmp_path, "MNIST")
        file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    replace(file)
    with pytest.raises(ValueError, match=r"are incomplete or damaged \(") as caught:
        torchvision_dataset(dataset, str(tmp_path), False)
    assert reason in str(caught.value)
    assert repr(str(tmp_path)) in str(caught.value)
