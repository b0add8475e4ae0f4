"""Centring, scaling, components and whitening: fitted on the training split alone, and the same in every engine."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from recipes import doubled, quick_recipe
from seedvote import augmentation, models
from seedvote.data import digits, fitted, network_inputs, prepare, preprocessed, preprocessing
from seedvote.engines.fused import Fused, why_not_stackable
from seedvote.engines.process import Process
from seedvote.engines.sequential import Sequential
from seedvote.seeding import Streams
from seedvote.training import train_member
from seedvote.types import Preprocessing, Source, Split, TrainedMember

CPU = torch.device("cpu")
ALL = ("mean", "standardize", "pca", "pca_whitening", "zca_whitening")


@pytest.fixture(scope="module")
def all_digits():
    return prepare(digits(), name="digits", split_seed=0, validation=0.1, test=0.5, limit=None, normalize=True)


def normalised(data, split="train"):
    raw = getattr(data, split).inputs.double().flatten(1).numpy()
    return (raw - data.normalization.mean[0]) / data.normalization.std[0]


def fit(name, data, **options):
    return fitted(functools.partial(getattr(preprocessing, name), **options), data)


def changed(data, found, split="train", dtype=torch.float64):
    inputs = network_inputs(getattr(data, split).inputs, data.normalization, dtype)
    return preprocessed(inputs, found).flatten(1).numpy()


def with_features(values):
    """Vectors as training split; the others hold nothing like them."""
    labels = torch.arange(len(values)) % 2
    source = Source(Split(torch.from_numpy(values), labels), Split(torch.full((4, values.shape[1]), 1e6), labels[:4]),
                    ("a", "b"))  # fmt: skip
    return prepare(source, name="x", split_seed=0, validation=0.1, test=None, limit=None, normalize=False)


def test_mean_leaves_a_mean_of_zero_and_the_scale(all_digits):
    expected = normalised(all_digits, "test") - normalised(all_digits).mean(0)
    np.testing.assert_allclose(changed(all_digits, fit("mean", all_digits), "test"), expected, atol=1e-6)


def test_standardising_is_scikit_learns(all_digits):
    oracle = StandardScaler().fit(normalised(all_digits))
    found = changed(all_digits, fit("standardize", all_digits), "test")
    np.testing.assert_allclose(found, oracle.transform(normalised(all_digits, "test")), rtol=1e-5, atol=1e-5)


def test_a_constant_feature_becomes_zero_whatever_its_mean_rounds_to():
    values = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    values[:, 1] = 0.1
    found = fit("standardize", with_features(values))
    np.testing.assert_array_equal(preprocessed(torch.full((1, 2), 0.1), found)[:, 1], 0)
    assert found.factor[1] == 1


@pytest.mark.parametrize("components", [None, 3, 0.5, 0.95])
@pytest.mark.parametrize("whiten", [False, True])
def test_components_are_scikit_learns(components, whiten, all_digits):
    values = normalised(all_digits)
    oracle = PCA(59 if components is None else components, svd_solver="full", whiten=whiten).fit(values)
    options = {"epsilon": 0.0} if whiten else {}
    found = fit("pca_whitening" if whiten else "pca", all_digits, components=components, **options)
    assert found.shape == (oracle.n_components_,)
    ours = changed(all_digits, found)
    theirs = oracle.transform(values) * (np.sqrt(len(values) / (len(values) - 1)) if whiten else 1)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=2e-4)
    assert all(row[np.abs(row).argmax()] > 0 for row in found.factor)


@pytest.mark.parametrize("name", ["pca_whitening", "zca_whitening"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whitened_training_data_has_the_identity_as_its_covariance(name, dtype, all_digits):
    found = changed(all_digits, fit(name, all_digits, epsilon=0.0), dtype=dtype).astype(np.float64)
    covariance = np.cov(found.T, bias=True)
    wanted = np.eye(len(covariance))
    if name == "zca_whitening":  # pixels that never vary span what no map can whiten: identity on all the rest
        _, spread, directions = np.linalg.svd(normalised(all_digits) - normalised(all_digits).mean(0))
        wanted = directions[spread > 1e-9].T @ directions[spread > 1e-9]
    assert np.abs(covariance - wanted).max() < 1e-3


def test_features_of_full_rank_are_whitened_to_the_identity():
    draw = np.random.default_rng(0)
    data = with_features((draw.normal(size=(500, 6)) @ draw.normal(size=(6, 6)) + 3).astype(np.float32))
    for name in ("pca_whitening", "zca_whitening"):
        covariance = np.cov(changed(data, fit(name, data, epsilon=0.0)).T, bias=True)
        assert np.abs(covariance - np.eye(6)).max() < 1e-3


def test_zca_is_the_inverse_square_root_of_the_covariance_with_epsilon_on_its_diagonal():
    draw = np.random.default_rng(0)
    values = (draw.normal(size=(300, 5)) @ draw.normal(size=(5, 5))).astype(np.float32)
    data = with_features(values)
    train = data.train.inputs.numpy().astype(np.float64)
    oracle = fractional_matrix_power(np.cov(train.T, bias=True) + 0.3 * np.eye(5), -0.5)
    np.testing.assert_allclose(fit("zca_whitening", data, epsilon=0.3).factor, oracle, atol=1e-6)
    np.testing.assert_allclose(fit("zca_whitening", data, epsilon=0.3).mean, train.mean(0), atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_only_the_training_split_counts(name, all_digits):
    other = dataclasses.replace(
        all_digits,
        validation=Split(255 - all_digits.validation.inputs, all_digits.validation.labels),
        test=Split(255 - all_digits.test.inputs, all_digits.test.labels),
    )
    first, second = fit(name, all_digits), fit(name, other)
    np.testing.assert_array_equal(first.factor, second.factor)
    np.testing.assert_array_equal(first.mean, second.mean)


@pytest.mark.parametrize("name", ALL)
def test_the_number_of_threads_does_not_matter(name, all_digits):
    with threadpool_limits(2):
        many = fit(name, all_digits)
    np.testing.assert_array_equal(many.factor, fit(name, all_digits).factor)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pca", {"components": 60}, "whole number from 1 to 59.*got 60"),
        ("pca", {"components": 0}, "got 0"),
        ("pca", {"components": True}, "got True"),
        ("pca_whitening", {"components": 1.5}, "got 1.5"),
        ("pca_whitening", {"epsilon": -1.0}, "preprocess.epsilon must be at least 0, got -1.0"),
        ("zca_whitening", {"epsilon": float("inf")}, "preprocess.epsilon must be at least 0, got inf"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, words, all_digits):
    with pytest.raises(ValueError, match=words):
        fit(name, all_digits, **options)


def test_samples_that_are_all_the_same_or_too_large_are_refused(all_digits):
    with pytest.raises(ValueError, match="nothing to whiten: all training samples are the same"):
        fit("pca", with_features(np.ones((40, 3), np.float32)))
    large = dataclasses.replace(all_digits, train=Split(torch.zeros(2, 1, 91, 91), torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"\[1, 91, 91\], 8281 numbers each, and can do that for 8192 at most"):
        fit("zca_whitening", large)


def test_a_users_function_must_return_a_preprocessing(all_digits):
    with pytest.raises(ValueError, match="must return a seedvote.types.Preprocessing or None, got int"):
        fitted(lambda samples: 3, all_digits)
    with pytest.raises(ValueError, match="preprocess fails on the training split: KeyError: 'x'"):
        fitted(lambda samples: {}["x"], all_digits)
    assert fitted(preprocessing.none, all_digits) is None


def test_images_stay_images_channels_last_and_components_become_vectors(all_digits):
    inputs = network_inputs(all_digits.test.inputs[:5], all_digits.normalization)
    white = preprocessed(inputs, fit("zca_whitening", all_digits))
    assert white.shape == (5, 1, 8, 8) and white.is_contiguous(memory_format=torch.channels_last)
    assert preprocessed(inputs, fit("pca", all_digits, components=7)).shape == (5, 7)
    assert preprocessed(inputs, None) is inputs


def prepared(data, name):
    return dataclasses.replace(data, preprocessing=fit(name, data))


def recipe_for(data, **changes):
    build_model = functools.partial(models.mlp, data.network_shape, len(data.classes), hidden=[16], dropout=0.2)
    images = functools.partial(augmentation.images, crop=1, rotate=5.0)
    return quick_recipe(data, build_model=build_model, augment=images, **changes)


def members(engine, recipe, data):
    return {event.seed: event.state for event in engine.train([1, 2], recipe, data, CPU)
            if isinstance(event, TrainedMember)}  # fmt: skip


@pytest.mark.parametrize("name", ["pca", "zca_whitening"])
def test_engines_agree(name, small_digits):
    data = prepared(small_digits, name)
    recipe = recipe_for(data)
    expected = members(Sequential(), recipe, data)
    plain = members(Sequential(), recipe_for(small_digits), small_digits)
    in_processes = members(Process(workers=2), recipe, data)
    for seed, state in expected.items():
        assert all(torch.equal(state[part], in_processes[seed][part]) for part in state)
        assert not torch.equal(state["4.bias"], plain[seed]["4.bias"])
    precise = dataclasses.replace(recipe, build_model=functools.partial(doubled, recipe.build_model))
    assert why_not_stackable(precise, data) is None
    one, other = members(Sequential(), precise, data), members(Fused(workers=1), precise, data)
    for seed, state in one.items():
        assert max(float((state[part] - other[seed][part]).abs().max()) for part in state) < 1e-12


def test_augmentation_comes_first_and_validation_is_preprocessed_too(small_digits):
    data = prepared(small_digits, "zca_whitening")
    seen = []

    class Watching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(64, 10)

        def forward(self, inputs):
            seen.append((self.training, inputs.detach().clone()))
            return self.linear(inputs.flatten(1))

    augment = functools.partial(augmentation.images, crop=2)
    recipe = quick_recipe(data, build_model=Watching, augment=augment, epochs=1)
    list(train_member(3, recipe, data, CPU))
    streams = Streams(3)
    chosen = streams.generator("order", 1).permutation(len(data.train))[:32]
    raw = data.train.inputs[torch.from_numpy(chosen)]
    moved = augment(network_inputs(raw, data.normalization), streams.generator("augment", 1, 0))
    matrix, centre = torch.from_numpy(data.preprocessing.factor), torch.from_numpy(data.preprocessing.mean)
    expected = (moved.flatten(1) - centre) @ matrix.T
    assert seen[0][0] and torch.equal(seen[0][1].flatten(1), expected)
    training, last = seen[-1]
    assert not training
    np.testing.assert_allclose(last.flatten(1), changed(data, data.preprocessing, "validation"), atol=1e-4)


def test_a_record_says_what_shape_a_network_gets(small_digits):
    assert small_digits.network_shape == (1, 8, 8)
    assert prepared(small_digits, "zca_whitening").network_shape == (1, 8, 8)
    found = Preprocessing(np.zeros(64, np.float32), np.zeros((9, 64), np.float32), (9,))
    assert dataclasses.replace(small_digits, preprocessing=found).network_shape == (9,)
