from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as transforms

from seedvote import augmentation
from seedvote.seeding import Streams


def generator(number=0):
    return Streams(number).generator("augment", 1, 0)


@pytest.fixture
def batch():
    return torch.rand(64, 3, 12, 12, generator=torch.Generator().manual_seed(0)) + 1


def test_none_changes_nothing(batch):
    assert augmentation.none(batch, generator()) is batch


def test_none_is_known_whatever_it_is_bound_from():
    assert augmentation.is_none(augmentation.none)
    assert augmentation.is_none(functools.partial(augmentation.none))
    assert not augmentation.is_none(augmentation.images)
    assert not augmentation.is_none(functools.partial(augmentation.images, crop=2))
    assert not augmentation.is_none(lambda inputs, generator: inputs)


@pytest.mark.parametrize(
    "options",
    [{"crop": 3}, {"flip": True}, {"cutout": 4}, {"rotate": 10.0}, {"scale": 0.2}, {"shear": 8.0}],
    ids=lambda options: next(iter(options)),
)
def test_each_change_is_drawn_per_sample_from_the_generator(batch, options):
    same = batch[:1].expand(64, -1, -1, -1)
    changed = augmentation.images(same, generator(), **options)
    assert changed.shape == batch.shape
    assert len({tuple(image.flatten().tolist()) for image in changed}) > 1
    assert torch.equal(changed, augmentation.images(same, generator(), **options))
    assert not torch.equal(changed, augmentation.images(same, generator(1), **options))


def test_crop_takes_a_window_of_the_padded_image(batch):
    cropped = augmentation.images(batch, generator(), crop=2)
    windows = set()
    for image, result in zip(batch, cropped, strict=True):
        padded = transforms.pad(image, 2)
        fits = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(padded[:, top : top + 12, left : left + 12], result)
        ]
        assert len(fits) == 1
        windows.add(fits[0])
    assert len(windows) > 15  # of 25, drawn 64 times


def test_flip_mirrors_about_half(batch):
    flipped = augmentation.images(batch, generator(), flip=True)
    mirrored = [torch.equal(result, transforms.hflip(image)) for image, result in zip(batch, flipped, strict=True)]
    kept = [torch.equal(result, image) for image, result in zip(batch, flipped, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


def test_cutout_zeroes_a_square(batch):
    cut = augmentation.images(batch, generator(), cutout=4)
    for image, result in zip(batch, cut, strict=True):
        hole = (result == 0).all(0)
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None])
        assert 1 <= rows.sum() <= 4
        assert 1 <= columns.sum() <= 4
        assert torch.equal(result[:, ~hole], image[:, ~hole])
    assert max((result == 0).all(0).sum() for result in cut) == 16


def test_a_warp_is_torchvisions_affine():
    smooth = torch.linspace(0, 3, 32).sin()[:, None] * torch.linspace(0, 2, 48).cos()
    image = smooth[None, None].float()
    drawn = generator()
    angle = np.radians(drawn.uniform(-20, 20, 1))[0]
    drawn.uniform(0, 0, 1)
    zoom = np.exp(drawn.uniform(-1, 1, 1) * np.log1p(0.2))[0]
    warped = augmentation.images(image, generator(), rotate=20.0, scale=0.2)
    expected = transforms.affine(
        image,
        angle=float(np.degrees(angle)),
        translate=[0, 0],
        scale=float(zoom),
        shear=[0.0, 0.0],
        interpolation=transforms.InterpolationMode.BILINEAR,
    )
    inner = (slice(None), slice(None), slice(8, 24), slice(12, 36))
    error = (warped - expected)[inner].abs().max()
    opposite = (warped - image)[inner].abs().max()
    assert error < 0.01 < opposite


def test_vectors_cannot_be_augmented_as_images():
    with pytest.raises(ValueError, match="set augment=none"):
        augmentation.images(torch.rand(4, 10), generator(), flip=True)
