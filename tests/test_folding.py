"""BatchNorm in the layer before it: the same answers from fewer layers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import seedvote
from seedvote.assembly import stored_data
from seedvote.folding import folded
from seedvote.logits import split_logits
from seedvote.models import resnet, torchvision_model


def used(model, shape, batches=3):
    """The network after some training-mode passes, so that its running statistics and weights are no defaults."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for _ in range(batches):
            model.train()(torch.randn(16, *shape, generator=generator))
    return model.eval()


def norms(model):
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


NETWORKS = {
    "resnet": (lambda: resnet((3, 16, 16), 5, depth=8), (3, 16, 16)),
    "torchvision": (lambda: torchvision_model((3, 32, 32), 5, "resnet18", small_images=True), (3, 32, 32)),
    "linear": (lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)), (6,)),
    "volumes": (
        lambda: nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(32, 5)), (1, 4, 4, 4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_answers_stay_and_batch_norms_go(name):
    build, shape = NETWORKS[name]
    model = used(build(), shape)
    inputs = torch.randn(40, *shape, generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        small = folded(model, inputs[:2])
        logits, again = model(inputs), small(inputs)
        exact = copy.deepcopy(model).double()
        precise = folded(exact, inputs[:2].double())(inputs.double()) - exact(inputs.double())
    assert norms(model) > 0 and norms(small) == 0
    assert float((logits - again).abs().max()) < 1e-5 * max(1.0, float(logits.abs().max()))
    assert torch.equal(logits.argmax(1), again.argmax(1))
    assert float(precise.abs().max()) < 1e-12
    assert all(torch.equal(before[part], tensor) for part, tensor in model.state_dict().items())


class Shared(nn.Module):
    """A convolution whose output also goes past its BatchNorm, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.twice, self.other = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.lone = nn.BatchNorm2d(2)

    def forward(self, inputs):
        once = self.first(self.lone(inputs))
        hidden = self.norm(once) + once
        return (self.other(self.twice(hidden)) + self.twice(hidden)).flatten(1)


def test_what_cannot_be_folded_stays():
    model = used(Shared(), (2, 3, 3))
    inputs = torch.randn(5, 2, 3, 3)
    small = folded(model, inputs)
    assert norms(small) == 3
    torch.testing.assert_close(small(inputs), model(inputs))


class OverPositions(nn.Module):
    """BatchNorm over the positions of a sequence, not over what the linear layer returns."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, inputs):
        return self.norm(self.linear(inputs)).flatten(1)


class Branching(nn.Module):
    def forward(self, inputs):
        return inputs if inputs.sum() > 0 else -inputs


def test_another_axis_and_what_cannot_be_traced_are_refused():
    with pytest.raises(ValueError, match="answers otherwise with BatchNorm folded: set fold_batchnorm=false"):
        folded(used(OverPositions(), (4, 4)), torch.randn(3, 4, 4))
    with pytest.raises(ValueError, match="cannot be traced .*: set fold_batchnorm=false"):
        folded(Branching().eval(), torch.ones(2, 3))


@pytest.fixture
def run(call, workplace):
    arguments = ("run=it", "n_seeds=2", "epochs=2", "data.limit=200", "model=resnet", "model.depth=8", "model.width=8")
    assert call("train", *arguments, "engine=sequential", "batch_size=32").status == 0
    return workplace / "checkpoints" / "it"


def test_logits_of_trained_members_agree_and_are_kept_apart(run, call, asked):
    plain, small = seedvote.load(run), seedvote.load(run, fold_batchnorm=True)
    data = stored_data(plain.run, {}, trust=False)
    expected, found = split_logits(plain, data.test, "test"), split_logits(small, data.test, "test")
    assert found.computed == 2
    assert not np.array_equal(expected.logits, found.logits)
    assert np.abs(expected.logits - found.logits).max() < 1e-5
    np.testing.assert_array_equal(expected.logits.argmax(2), found.logits.argmax(2))
    asked.clear()
    np.testing.assert_array_equal(split_logits(small, data.test, "test").logits, found.logits)
    np.testing.assert_array_equal(split_logits(plain, data.test, "test").logits, expected.logits)
    assert not asked
    folder = run / "seed-0000"
    (folder / "logits-test.safetensors").write_bytes((folder / "logits-test-folded.safetensors").read_bytes())
    np.testing.assert_array_equal(split_logits(plain, data.test, "test").logits, expected.logits)
    assert asked == [0]
    outcome = call("predict", "fold_batchnorm=true")
    assert outcome.status == 0, outcome.err
    assert small.predict_logits(data.test.inputs[:0]).shape == (2, 0, 10)
