from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from seedvote.data import digits, prepare
from seedvote.data.normalization import measured, normalized
from seedvote.types import Data, Normalization, Source, Split

CLASSES = ("cat", "dog", "fox")


def numbered(counts: tuple[int, ...], start: int = 0) -> Split:
    """Vectors whose first feature is the sample's number, so that it can be followed through the splits."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    numbers = torch.arange(start, start + len(labels), dtype=torch.float32)
    return Split(torch.stack([numbers, numbers**2], 1), labels)


def prepared(source: Source, **changes: object) -> Data:
    settings_: dict[str, object] = {
        "name": "try", "split_seed": 0, "validation": 0.1, "test": 0.3, "limit": None, "normalize": True,
    }  # fmt: skip
    return prepare(source, **{**settings_, **changes})  # type: ignore[arg-type]


def numbers(split: Split) -> set[int]:
    return set(split.inputs[:, 0].int().tolist())


def test_digits_are_carved_by_fractions_of_the_whole():
    data = prepared(digits(), test=0.5)
    assert (len(data.train), len(data.validation), len(data.test)) == (718, 180, 899)
    assert data.input_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert data.sample is False


@given(
    counts=st.tuples(*[st.integers(20, 60)] * 3),
    validation=st.floats(0.1, 0.4),
    test=st.floats(0.1, 0.4),
    split_seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_splits_are_disjoint_complete_and_stratified(counts, validation, test, split_seed):
    source = Source(numbered(counts), None, CLASSES)
    data = prepared(source, validation=validation, test=test, split_seed=split_seed)
    splits = (data.train, data.validation, data.test)
    whole = sum(counts)
    assert [len(split) for split in splits[1:]] == [math.floor(x * whole + 0.5) for x in (validation, test)]
    assert sum(len(split) for split in splits) == whole
    assert set.union(*map(numbers, splits)) == set(range(whole))
    for split in splits:
        for label, count in enumerate(counts):
            exact = len(split) * count / whole
            assert abs(int((split.labels == label).sum()) - exact) <= 2
        original = source.train.labels[split.inputs[:, 0].long()]
        assert torch.equal(split.labels, original)


def test_an_official_test_split_stays_as_it_is():
    test = numbered((4, 5, 6), start=1000)
    data = prepared(Source(numbered((40, 30, 30)), test, CLASSES), test=None)
    assert torch.equal(data.test.inputs, test.inputs)
    assert torch.equal(data.test.labels, test.labels)
    assert (len(data.train), len(data.validation)) == (90, 10)


def test_the_split_follows_split_seed_and_nothing_else():
    source = Source(numbered((40, 30, 30)), None, CLASSES)
    np.random.seed(1)  # noqa: NPY002 - the global generators must not matter
    torch.manual_seed(1)
    first = prepared(source)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    second = prepared(source, name="another", normalize=False)
    other = prepared(source, split_seed=1)
    assert numbers(first.train) == numbers(second.train)
    assert numbers(first.validation) == numbers(second.validation)
    assert numbers(first.test) == numbers(second.test)
    assert first.fingerprint == second.fingerprint
    assert numbers(first.test) != numbers(other.test)
    assert numbers(first.validation) != numbers(other.validation)
    assert first.fingerprint != other.fingerprint


def test_the_test_split_does_not_depend_on_the_size_of_validation():
    source = Source(numbered((40, 30, 30)), None, CLASSES)
    few, many = prepared(source, validation=0.05), prepared(source, validation=0.5)
    assert numbers(few.test) == numbers(many.test)


def test_limit_draws_a_stratified_part_of_each_split():
    source = Source(numbered((80, 60, 60)), None, CLASSES)
    whole, part = prepared(source), prepared(source, limit=10)
    for name in ("train", "validation", "test"):
        assert len(getattr(part, name)) == 10
        assert numbers(getattr(part, name)) < numbers(getattr(whole, name))
        assert torch.bincount(getattr(part, name).labels).tolist() == [4, 3, 3]
    assert part.sample is True
    assert part.fingerprint != whole.fingerprint


def test_limit_holds_for_an_official_test_split_too():
    test = numbered((40, 40, 20), start=1000)
    data = prepared(Source(numbered((80, 60, 60)), test, CLASSES), limit=10)
    assert numbers(data.test) < numbers(test)
    assert torch.bincount(data.test.labels).tolist() == [4, 4, 2]


@pytest.mark.parametrize("limit", [1, 2, 19, 139, 1000])
def test_limit_holds_where_nothing_can_be_stratified(limit):
    data = prepared(Source(numbered((80, 60, 60)), None, CLASSES), limit=limit)
    sizes = [len(split) for split in (data.train, data.validation, data.test)]
    assert sizes == [min(limit, 120), min(limit, 20), min(limit, 60)]
    assert data.sample is True


def test_normalization_comes_from_the_training_split_alone():
    train = numbered((40, 30, 30))
    near = prepared(Source(train, numbered((4, 4, 4), start=0), CLASSES))
    far = prepared(Source(train, numbered((4, 4, 4), start=10**6), CLASSES))
    assert near.normalization == far.normalization
    assert near.fingerprint != far.fingerprint
    oracle = StandardScaler().fit(near.train.inputs.double().numpy())
    np.testing.assert_allclose(near.normalization.mean, oracle.mean_, rtol=1e-12)
    np.testing.assert_allclose(near.normalization.std, oracle.scale_, rtol=1e-12)


def test_normalization_of_a_limited_split_follows_the_limited_split():
    data = prepared(digits(), test=0.5, limit=50)
    pixels = data.train.inputs.numpy().astype(np.float64)
    assert data.normalization.mean == pytest.approx((pixels.mean(),), rel=1e-14)
    assert data.normalization.std == pytest.approx((pixels.std(),), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(50, 3, 5, 4), (50, 7)])
def test_measured_agrees_with_numpy_over_several_chunks(dtype, shape, monkeypatch):
    monkeypatch.setattr("seedvote.data.checks.CHUNK_ELEMENTS", 100)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, shape, generator=generator).to(dtype)
    axes = (0, 2, 3) if len(shape) == 4 else (0,)
    exact = inputs.numpy().astype(np.float64)
    normalization = measured(inputs)
    np.testing.assert_allclose(normalization.mean, exact.mean(axes), rtol=1e-14)
    np.testing.assert_allclose(normalization.std, exact.std(axes), rtol=1e-13)


@pytest.mark.parametrize("value", [0.1, 1e8, -3.7])
def test_a_constant_feature_gets_standard_deviation_one(value):
    inputs = torch.full((1000, 2), value)
    inputs[:, 1] = torch.arange(1000)
    assert measured(inputs).std[0] == 1.0
    assert measured(torch.full((7, 1, 2, 2), 9, dtype=torch.uint8)) == Normalization((9.0,), (1.0,))


def test_measured_does_not_depend_on_the_number_of_threads():
    inputs = torch.randn(4000, 40, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(measured(inputs))
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_without_normalization_bytes_go_to_the_unit_interval_and_floats_stay():
    images = prepared(digits(), normalize=False)
    assert images.normalization == Normalization((0.0,), (255.0,))
    vectors = prepared(Source(numbered((40, 30, 30)), None, CLASSES), normalize=False)
    assert vectors.normalization == Normalization((0.0, 0.0), (1.0, 1.0))


def test_normalized_is_the_printed_formula_for_images_and_vectors():
    normalization = Normalization((1.0, 2.0), (4.0, 0.5))
    image = torch.tensor([[[[5, 9]], [[3, 2]]]], dtype=torch.uint8)
    assert torch.equal(normalized(image, normalization), torch.tensor([[[[1.0, 2.0]], [[2.0, 0.0]]]]))
    vector = torch.tensor([[5.0, 3.0]])
    result = normalized(vector, normalization, torch.float64)
    assert result.dtype == torch.float64
    assert torch.equal(result, torch.tensor([[1.0, 2.0]], dtype=torch.float64))


def test_the_fingerprint_covers_classes_labels_and_every_pixel():
    base = prepared(Source(numbered((40, 30, 30)), numbered((4, 4, 4)), CLASSES)).fingerprint
    assert len(base) == 64
    renamed = Source(numbered((40, 30, 30)), numbered((4, 4, 4)), ("cat", "dog", "wolf"))
    assert prepared(renamed).fingerprint != base
    for name in ("train", "test"):
        for field in ("inputs", "labels"):
            splits = {"train": numbered((40, 30, 30)), "test": numbered((4, 4, 4))}
            tensor = getattr(splits[name], field)
            tensor.view(-1)[-1] = 0
            assert prepared(Source(splits["train"], splits["test"], CLASSES)).fingerprint != base


def test_other_floats_become_float32():
    split = numbered((40, 30, 30))
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        source = Source(Split((split.inputs / 1000).to(dtype), split.labels.to(torch.int32)), None, CLASSES)
        data = prepared(source)
        assert data.train.inputs.dtype == torch.float32
        assert data.train.labels.dtype == torch.int64


def with_inputs(inputs: torch.Tensor) -> Source:
    return Source(Split(inputs, numbered((40, 30, 30)).labels), None, CLASSES)


def with_labels(position: int, label: int) -> Source:
    split = numbered((40, 30, 30))
    split.labels[position] = label
    return Source(split, None, CLASSES)


def with_nan(samples: int) -> Source:
    split = numbered((40, 30, 30))
    split.inputs[:samples, 1] = float("nan")
    return Source(numbered((40, 30, 30)), split, CLASSES)


TRAIN = numbered((40, 30, 30))
MISTAKES = {
    "label above": (with_labels(7, 3), "label 3 at position 7 of train is outside 0 .. 2 (1 such labels)"),
    "label below": (with_labels(99, -1), "label -1 at position 99 of train is outside 0 .. 2"),
    "float labels": (
        Source(Split(TRAIN.inputs, TRAIN.labels.float()), None, CLASSES),
        "train labels are float32: wanted integers, class indices from 0 to 2.",
    ),
    "empty split": (
        Source(TRAIN, Split(torch.empty(0, 2), torch.empty(0, dtype=torch.int64)), CLASSES),
        "the test split has no sample: wanted at least one.",
    ),
    "empty class": (
        Source(numbered((50, 0, 50)), None, CLASSES),
        "1 of 3 classes have no sample in the training data ('dog')",
    ),
    "nan": (with_nan(3), "3 of 100 test samples hold NaN or infinite numbers (as float32)"),
    "too large": (
        with_inputs(torch.full((100, 2), 1e300, dtype=torch.float64)),
        "100 of 100 train samples hold NaN or infinite numbers (as float32)",
    ),
    "integers": (
        with_inputs(torch.zeros(100, 2, dtype=torch.int32)),
        "train inputs are int32: wanted uint8 (0 to 255, raw images) or float32; convert them",
    ),
    "dimensions": (
        with_inputs(torch.zeros(100, 2, 3)),
        "train inputs have shape (100, 2, 3): wanted [samples, features] for vectors",
    ),
    "no numbers": (
        with_inputs(torch.zeros(100, 0)),
        "train samples have shape (0,), so they hold no number at all.",
    ),
    "lengths": (
        with_inputs(torch.zeros(99, 2)),
        "train has 99 inputs but labels of shape (100,): wanted one label a sample.",
    ),
    "shapes": (
        Source(TRAIN, Split(torch.zeros(100, 3), TRAIN.labels), CLASSES),
        "test samples have shape (3,) but training samples have shape (2,)",
    ),
    "dtypes": (
        Source(TRAIN, Split(torch.zeros(100, 2, dtype=torch.uint8), TRAIN.labels), CLASSES),
        "test inputs are uint8 but training inputs are float32",
    ),
    "one class": (
        Source(TRAIN, None, ("cat",)),
        "a classifier needs at least 2 classes, but the data has 1: ('cat',).",
    ),
    "same name": (
        Source(TRAIN, None, ("cat", "dog", "cat")),
        "class names must be unique, but 'cat' is the name of more than one class.",
    ),
    "one sample": (
        Source(numbered((50, 49, 1)), None, CLASSES),
        "cannot hold out data.test=0.3 of 100 samples: class 'fox' has only 1 sample left to divide",
    ),
    "two samples": (
        Source(numbered((50, 48, 2)), None, CLASSES),
        "cannot hold out data.validation=0.1 of 100 samples: class 'fox' has only 1 sample left to divide",
    ),
    "too few": (
        Source(numbered((4, 4, 4)), None, CLASSES),
        "cannot hold out data.validation=0.1 of 12 samples: 1 samples to hold out and 7 to keep",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_data_that_cannot_be_trained_on_is_refused_in_a_sentence(mistake):
    source, sentence = MISTAKES[mistake]
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        prepared(source)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"test": None}, "the data has no official test split and data.test is null: set data.test to"),
        ({"test": 0.0}, "data.test=0.0 is no fraction between 0 and 1: 0.2 holds out 20 %."),
        ({"validation": 1.0}, "data.validation=1.0 is no fraction between 0 and 1: 0.1 holds out 10 %."),
        ({"validation": float("nan")}, "data.validation=nan is no fraction between 0 and 1"),
        ({"validation": 0.7}, "data.test=0.3 and data.validation=0.7 leave nothing to train on"),
        ({"limit": 0}, "data.limit=0 leaves no sample: give a number of samples, or null for all."),
        ({"split_seed": -1}, "split_seed=-1 is outside 0 .. 4294967295: choose a seed in this range."),
    ],
)
def test_impossible_arguments_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        prepared(Source(TRAIN, None, CLASSES), **changes)
    assert sentence in str(caught.value)


def test_many_empty_classes_are_counted_and_the_first_named():
    split = Split(torch.zeros(10, 2), torch.zeros(10, dtype=torch.int64))
    with pytest.raises(ValueError, match="9 of 10 classes have no sample") as caught:
        prepared(Source(split, None, tuple("abcdefghij")))
    assert "('b', 'c', 'd', 'e', 'f', ...)" in str(caught.value)
