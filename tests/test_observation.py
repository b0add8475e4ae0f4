from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recipes import in_float64, quick_recipe
from seedvote import models
from seedvote.data import normalized
from seedvote.engines.fused import Fused
from seedvote.engines.process import Process
from seedvote.engines.sequential import Sequential
from seedvote.initialization import initial_model
from seedvote.observation import histograms
from seedvote.seeding import Streams
from seedvote.training import Unkept
from seedvote.types import Progress, TrainedMember

CPU = torch.device("cpu")
ENGINES = {
    "sequential": Sequential(),
    "process": Process(workers=1),
    "fused": Fused(workers=1),
}


class Watching(Unkept):
    """Keeps nothing and looks at each epoch."""

    observes = True


@pytest.mark.parametrize("values", [
    torch.randn(1000), torch.linspace(-3, 5, 7), torch.tensor([2.5]), torch.full((9,), 1e30), torch.zeros(4),
    torch.tensor([1.0, 1.0 + 1e-15], dtype=torch.float64), torch.tensor([0.0, 1e-45]), torch.randn(4, 3, 2) * 1e38,
])  # fmt: skip
def test_a_histogram_counts_everything(values):
    found = histograms({"it": values})["it"]
    numbers = values.double().numpy().ravel()
    assert found.count == len(numbers) == sum(found.counts)
    assert found.total == pytest.approx(numbers.sum())
    assert found.squares == pytest.approx((numbers**2).sum())
    assert found.edges[0] <= numbers.min() <= numbers.max() <= found.edges[-1]
    assert len(found.edges) == len(found.counts) + 1 == len(set(found.edges))
    for low, high, count in list(zip(found.edges, found.edges[1:], found.counts, strict=False))[:-1]:
        assert ((numbers >= low) & (numbers < high)).sum() == count


def test_what_is_not_finite_does_not_count():
    values = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf, 3.0, 0.0])
    found = histograms({"some": values, "none": values[1:4], "empty": torch.zeros(0)})
    assert set(found) == {"some"}
    assert (found["some"].count, found["some"].total, found["some"].squares) == (3, 4.0, 10.0)


def watched(engine, recipe, data, seeds=(3, 4)):
    events = list(ENGINES[engine].train(list(seeds), recipe, data, CPU, Watching()))
    return [event for event in events if isinstance(event, Progress)], {
        event.seed: event for event in events if isinstance(event, TrainedMember)
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_epochs_are_seen_as_they_are(engine, small_digits):
    recipe = quick_recipe(small_digits, epochs=3)
    epochs, members = watched(engine, recipe, small_digits)
    assert sorted((epoch.seed, epoch.record.epoch) for epoch in epochs) == [(s, e) for s in (3, 4) for e in (1, 2, 3)]
    inputs = normalized(small_digits.validation.inputs, small_digits.normalization)
    for epoch in epochs:
        logits = torch.from_numpy(epoch.observation.logits)
        labels = small_digits.validation.labels
        assert F.cross_entropy(logits, labels).item() == pytest.approx(epoch.record.validation_loss, rel=1e-5)
        assert (logits.argmax(1) == labels).double().mean() == pytest.approx(epoch.record.validation_accuracy)
        if epoch.record.epoch == 3:
            state = members[epoch.seed].state
            model = recipe.build_model().eval()
            model.load_state_dict(state)
            torch.testing.assert_close(logits, model(inputs).detach(), rtol=1e-5, atol=1e-5)
            assert epoch.observation.weights == histograms({name: state[name] for name, _ in model.named_parameters()})


@pytest.mark.parametrize("split", [False, True], ids=["stacked", "parts"])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("engine", ["sequential", "fused"])
def test_gradients_are_those_of_the_last_step_after_clipping(engine, clip_norm, split, small_digits):
    data = small_digits
    plain = functools.partial(quick_recipe(data).build_model, dropout=0.0)
    # One step with all samples, whose gradient does not depend on their order.
    recipe = quick_recipe(
        data, build_model=plain, epochs=1, batch_size=len(data.train), clip_norm=clip_norm,
        build_optimizer=functools.partial(torch.optim.SGD, lr=0.01, fused=split),
    )  # fmt: skip
    recipe = in_float64(recipe)
    model = initial_model(recipe, Streams(4))
    inputs = normalized(data.train.inputs, data.normalization, torch.float64)
    F.cross_entropy(model(inputs), data.train.labels).backward()
    if clip_norm is not None:
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm) > clip_norm
    found = watched(engine, recipe, data)[0][1].observation.gradients
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.numpy()
        assert found[name].squares == pytest.approx(np.square(gradient).sum(), rel=1e-9)
        assert found[name].total == pytest.approx(gradient.sum(), rel=1e-6, abs=1e-12)
        assert found[name].edges[0] == pytest.approx(gradient.min(), rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_looking_changes_nothing(engine, small_digits, colour_images):
    lenet = functools.partial(models.lenet, (3, 32, 32), 4, dropout=0.3)
    convolutional = quick_recipe(colour_images, epochs=1, build_model=lenet)
    for recipe, data in ((quick_recipe(small_digits), small_digits), (convolutional, colour_images)):
        torch.manual_seed(1)
        _, seen = watched(engine, recipe, data)
        after = torch.rand(1)
        torch.manual_seed(1)
        unseen = {
            event.seed: event
            for event in ENGINES[engine].train([3, 4], recipe, data, CPU)
            if isinstance(event, TrainedMember)
        }
        assert torch.equal(after, torch.rand(1))
        for seed, member in unseen.items():
            assert all(torch.equal(tensor, seen[seed].state[name]) for name, tensor in member.state.items())
            strip = functools.partial(dataclasses.replace, seconds=0)
            assert [*map(strip, member.history)] == [*map(strip, seen[seed].history)]
