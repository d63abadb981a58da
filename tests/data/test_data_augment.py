"""The augmentation on tensors is torchvision's in distribution, and for given draws its result."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from scmd.data.augment import SCALE, Augmentation, draw_box

DRAWS = 3000
SHAPES = {"square": (227, 227), "wide": (300, 390), "tall": (330, 240), "small": (9, 8)}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes(height: int, width: int) -> np.ndarray:
    draw = random.Random(1)
    return np.array([draw_box(height, width, draw) for _ in range(DRAWS)])


def torchvisions(height: int, width: int) -> np.ndarray:
    crop = v2.RandomResizedCrop(8, scale=SCALE)
    image = tv_tensors.Image(torch.empty(3, height, width))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made = [crop.make_params([image]) for _ in range(DRAWS)]
    return np.array([[p[key] for key in ("top", "left", "height", "width")] for p in made])


def chance(one: np.ndarray, other: np.ndarray) -> float:
    """Of samples of one distribution to differ more than these."""
    result: Any = ks_2samp(one, other)
    return result.pvalue


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_crops_are_distributed_as_torchvisions(shape):
    """Area, ratio and place, and how the place depends on the size; two samples each, by
    Kolmogorov and Smirnov."""
    for name, of in {
        "area": lambda box: box[2] * box[3],
        "ratio": lambda box: box[3] / box[2],
        "top": lambda box: box[0],
        "left": lambda box: box[1],
        "middle": lambda box: (box[0] + box[2] / 2) * (box[1] + box[3] / 2),
        "room above": lambda box: box[0] / np.maximum(shape[0] - box[2], 1),
    }.items():
        assert chance(of(boxes(*shape).T), of(torchvisions(*shape).T)) > 0.001, name


def test_test_would_notice_another_scale(monkeypatch):
    monkeypatch.setattr("scmd.data.augment.SCALE", (0.68, 1.0))
    ours, theirs = boxes(227, 227), torchvisions(227, 227)
    assert chance(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) < 0.001


@pytest.mark.parametrize("shape", [(200, 20), (20, 200), (1, 7), (100, 56)])
def test_image_too_narrow_for_most_crops_has_torchvisions(shape):
    ours, theirs = boxes(*shape), torchvisions(*shape)
    for one, other in ((ours, theirs), (theirs, ours)):
        # What is drawn often is drawn by both.
        often, count = np.unique(one, axis=0, return_counts=True)
        for box in often[count > 0.05 * DRAWS]:
            assert (other == box).all(1).mean() > 0.02


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_crop_is_torchvisions_of_the_same_box(shape):
    pixels, augmentation = noise(*shape), Augmentation(24, flip=False)
    for seed in range(20):
        top, left, height, width = draw_box(shape[0], shape[1], random.Random(seed))
        view, _ = augmentation.crop(pixels, seed)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        size = [24, 24]
        expected = transforms.resized_crop(image, top, left, height, width, size, antialias=True)
        assert torch.equal(view, expected)
        picture: Any = Image.fromarray(pixels)
        picture = transforms.resized_crop(picture, top, left, height, width, size, antialias=True)
        difference = view.int() - transforms.pil_to_tensor(picture).int()
        assert difference.abs().max() <= 1


def test_half_of_the_views_are_mirrored_and_nothing_else_changes():
    pixels, size = noise(20, 20), 12
    mirrored = 0
    for seed in range(400):
        view, colours = Augmentation(size).crop(pixels, seed)
        plain, same = Augmentation(size, flip=False).crop(pixels, seed)
        assert colours == same
        if not torch.equal(view, plain):
            mirrored += 1
            assert torch.equal(view, plain.flip(-1))
    assert abs(mirrored - 200) < 3.3 * math.sqrt(400 / 4)


@pytest.mark.parametrize("name", ["tensor", "torchvision"])
def test_view_depends_on_image_and_seed_alone(name):
    augmentation, pixels = Augmentation(16, name=name), noise(20, 24)
    before = torch.get_rng_state(), random.getstate()
    first = [augmentation.view(pixels, seed) for seed in range(8)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    torch.manual_seed(5)
    random.seed(5)
    other = replace(augmentation)
    for seed in reversed(range(8)):
        assert torch.equal(other.view(pixels, seed), first[seed])
    assert len({view.numpy().tobytes() for view in first}) == 8
    assert first[0].shape == (3, 16, 16)
    assert first[0].dtype == torch.uint8
    assert not torch.equal(augmentation.view(noise(20, 24, 1), 0), first[0])


def test_no_crop_of_a_reduced_image_is_enlarged():
    """And of one that is a pixel smaller, some are."""
    enlarged = 0
    for size in (32, 224):
        side = Augmentation(size).shorter_side
        assert side is not None
        for shape in ((side, side), (side, 2 * side), (round(1.2 * side), side)):
            assert boxes(*shape)[:, 2:].min() >= size - 1  # a crop's sides are rounded
        enlarged += (boxes(side - 5, side - 5)[:, 2:].min(1) < size).sum()
    assert enlarged
    assert Augmentation(224).shorter_side == 310
    assert Augmentation(224, name="torchvision").shorter_side is None


def test_description_tells_augmentations_apart():
    kinds = [
        Augmentation(size, flip, name)
        for size in (8, 9)
        for flip in (False, True)
        for name in ("tensor", "torchvision")
    ]
    assert len({kind.description for kind in kinds}) == len(kinds)
