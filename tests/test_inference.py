"""Members' logits: each member's own, whoever else is asked and however the samples are cut."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import seedvote
from seedvote.assembly import stored_data
from seedvote.data import Pieces, evaluation_inputs
from seedvote.types import Normalization, Preprocessing

CPU = torch.device("cpu")
PLAIN = Normalization((3.0,), (2.0,))
ROOT = Path(__file__).resolve().parent.parent


OPTIONS = {
    "mlp": ["data.limit=60"],
    "whitened": ["data.limit=60", "preprocess=zca_whitening"],
    "images": ["data.limit=60", "model=resnet", "model.depth=8", "model.width=4"],
    "recurrent": ["data.limit=60", "model=recurrent"],
    "variants": ["data.limit=60", "members=[{model: {hidden: [16]}}, {model: {hidden: [8, 8]}}]"],
}


@pytest.fixture(scope="module", params=OPTIONS)
def stored(request, tmp_path_factory):
    """A run of four members."""
    place = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, "-m", "seedvote.train", "run=it", "n_seeds=4", "epochs=1", "engine=sequential"]
    subprocess.run([*command, *OPTIONS[request.param]], cwd=place, check=True, capture_output=True)
    return place / "checkpoints" / "it"


def one_by_one(ensemble, inputs):
    return np.stack([ensemble.member_logits(position, inputs) for position in range(len(ensemble.seeds))])


def oracle(ensemble, data, raw):
    """Every member's logits in float64, all samples at once."""
    found = []
    for position, seed in enumerate(ensemble.seeds):
        network = ensemble._networks[seed % len(ensemble._networks)]
        network.load_state_dict(ensemble._states[position])
        with torch.inference_mode():
            fitted = dataclasses.replace(data, preprocessing=ensemble._preprocessing)
            inputs = evaluation_inputs(raw, fitted, torch.float64)
            found.append(network.double().eval()(inputs).numpy())
        network.float()
    return np.stack(found)


@pytest.mark.parametrize("fold", [False, True])
def test_logits_are_the_same_bits_alone_and_among_others(stored, threads, fold):
    ensemble = seedvote.load(stored, device="cpu", fold_batchnorm=fold)
    inputs = raw_images(1100)
    logits = ensemble.predict_logits(inputs)
    assert logits.shape == (4, 1100, 10) and logits.dtype == np.float32
    assert one_by_one(ensemble, inputs).tobytes() == logits.tobytes()
    assert ensemble.predict_logits(inputs).tobytes() == logits.tobytes()
    some = seedvote.load(stored, device="cpu", seeds=[1, 2], fold_batchnorm=fold)
    assert some.predict_logits(inputs).tobytes() == logits[1:3].tobytes()
    assert ensemble.only([3], "x").predict_logits(inputs).tobytes() == logits[3:].tobytes()
    assert torch.get_num_threads() == threads


def test_weights_are_set_on_one_thread_for_the_others_to_be_free(stored, threads, monkeypatch):
    ensemble = seedvote.load(stored, device="cpu")
    own, seen = nn.Module.load_state_dict, []

    def watched(network, *arguments, **options):
        seen.append(torch.get_num_threads())
        return own(network, *arguments, **options)

    monkeypatch.setattr(nn.Module, "load_state_dict", watched)
    ensemble.predict_logits(np.zeros((3, *ensemble.run.record.input_shape), ensemble.run.record.input_dtype))
    assert seen == [1] * 4
    assert torch.get_num_threads() == threads


def test_logits_and_labels_are_what_the_networks_compute(stored, threads):
    ensemble = seedvote.load(stored, device="cpu")
    data, inputs = stored_data(ensemble.run, {}, trust=False), raw_images(1100)
    logits, expected = ensemble.predict_logits(inputs), oracle(ensemble, data, inputs)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, atol=1e-5 * scale)
    ahead = np.diff(np.sort(expected, 2)[..., -2:]).squeeze(2) > 1e-4 * scale
    assert ahead.mean() > 0.9
    assert (logits.argmax(2) == expected.argmax(2))[ahead].all()
    assert ensemble.predict_logits(inputs[:0]).shape == (4, 0, 10)


class InPlace(nn.Module):
    """Changes its input in place, which the next member must not see."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return self.inner(inputs.mul_(0.5))


class Refusing(nn.Module):
    """Cannot be copied, so that its pieces come one after the other."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __deepcopy__(self, memo):
        raise TypeError("no copies")

    def forward(self, inputs):
        return self.inner(inputs)


@pytest.mark.parametrize("kind", [InPlace, Refusing])
def test_networks_of_any_kind_answer_for_themselves(runs, threads, kind):
    plain = seedvote.load(runs / "it", device="cpu")
    inputs = stored_data(plain.run, {}, trust=False).test.inputs
    odd = dataclasses.replace(
        plain,
        _networks=tuple(kind(network) for network in plain._networks),
        _states=tuple({f"inner.{name}": tensor for name, tensor in state.items()} for state in plain._states),
    )
    logits = odd.predict_logits(inputs)
    assert one_by_one(odd, inputs).tobytes() == logits.tobytes()
    if kind is Refusing:
        np.testing.assert_allclose(logits, plain.predict_logits(inputs), atol=1e-5)


def raw_images(count, size=8):
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("count", [0, 1, 512, 513, 1200])
def test_pieces_are_all_samples_once_and_in_order(count, keep):
    raw = raw_images(count)
    pieces = Pieces(raw, PLAIN, None, CPU, keep)
    assert len(pieces) == count and pieces.count == -(-count // 512)
    for _ in range(2):
        found = torch.cat([pieces.inputs(index).mul_(1) for index in range(pieces.count)] or [torch.empty(0, 1, 8, 8)])
        np.testing.assert_array_equal(found.numpy(), (raw.float().numpy() - 3) / 2)
        for index in range(pieces.count):
            assert torch.equal(pieces.inputs(index).zero_() + found[pieces.place(index)], found[pieces.place(index)])
    if count:
        np.testing.assert_array_equal(pieces.sample(2).numpy(), found[:2].numpy())


def test_pieces_of_large_samples_are_small_and_what_is_kept_is_bounded(monkeypatch):
    large = Pieces(torch.zeros(100, 3, 224, 224, dtype=torch.uint8), Normalization((0.0,) * 3, (1.0,) * 3), None, CPU)
    assert len(large.inputs(0)) == 32
    components = Preprocessing(np.zeros(64, np.float32), np.ones((2, 64), np.float32), (2,))
    assert Pieces(raw_images(600), PLAIN, components, CPU).inputs(0).shape == (512, 2)
    monkeypatch.setattr("seedvote.data.pieces.KEPT_BYTES", 2 * 512 * 64 * 4)
    pieces = Pieces(raw_images(2000), PLAIN, None, CPU, keep=True)
    for index in (3, 2, 1, 0):
        pieces.inputs(index)
    assert sorted(pieces._kept) == [0, 1]


def test_the_benchmark_runs(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "benchmark_prediction.py", "--sample"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("sample, not a result")
    assert "the same bits" in found.stdout and " 0 other labels" in found.stdout
    assert len([line for line in found.stdout.splitlines() if line.startswith("| ")]) == 14
