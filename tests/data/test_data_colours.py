"""Changed colours are torchvision's for the same draws; the draws are distributed as its."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare, kstest
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

import scmd.data.colours as colours
from scmd.data.colours import COLOURS, GREY, STRENGTH, change_colours, draw_colours
from scmd.data.images import read_image

CHANGES: tuple[Callable[..., Any], ...] = (
    transforms.adjust_brightness,
    transforms.adjust_contrast,
    transforms.adjust_saturation,
    transforms.adjust_hue,
)


def drawn(count: int, seed: int = 0) -> np.ndarray:
    draw = random.Random(seed)
    return np.array([draw_colours(draw) for _ in range(count)], np.float32)


def torchvisions(image: Any, row: np.ndarray) -> Any:
    """Its changes of a tensor or a picture, in the order of the row."""
    for kind in row[4:8].astype(int):
        image = CHANGES[kind](image, float(row[kind]))
    return transforms.rgb_to_grayscale(image, 3) if row[8] else image


def of_floats(images: Tensor, rows: np.ndarray) -> Tensor:
    floats = images.float() / 255
    made = [torchvisions(image, row) for image, row in zip(floats, rows, strict=True)]
    return (255 * torch.stack(made)).round().int()


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Six parts of two photographs."""
    return [
        Image.fromarray(photograph).crop((left, 50, left + 224, 274))
        for photograph in load_sample_images().images
        for left in (0, 200, 400)
    ]


def check_pictures(pictures: list[Image.Image], count: int) -> None:
    """Against torchvision on floats, and on pictures: that rounds down after every change, and
    the hue to one of 256, and so is darker and further away. Levels of 0 to 255."""
    rows = drawn(count)
    chosen = [pictures[place % len(pictures)] for place in range(count)]
    images = torch.stack([transforms.pil_to_tensor(picture) for picture in chosen])
    ours = change_colours(images, rows).int()
    difference = (ours - of_floats(images, rows)).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.01
    rounded = [torchvisions(picture, row) for picture, row in zip(chosen, rows, strict=True)]
    theirs = torch.stack([transforms.pil_to_tensor(picture) for picture in rounded]).int()
    difference = (ours - theirs).abs()
    assert difference.max() <= 24
    assert difference.float().mean() < 1.5
    assert difference.float().mean((1, 2, 3)).max() < 3.5


def test_photographs_are_torchvisions(photographs):
    check_pictures(photographs, 36)


def test_pictures_of_a_benchmark_are_torchvisions(test_data):
    files = sorted((test_data / "data" / "PACS").glob("*/*/*.*"))[::400]
    check_pictures([read_image(file).resize((224, 224)) for file in files], 48)


@pytest.mark.parametrize("kind", range(4))
def test_each_change_is_torchvisions_within_rounding(kind):
    change = (colours._brightness, colours._contrast, colours._saturation, colours._hue)[kind]
    image = torch.rand((1, 3, 40, 30), generator=torch.Generator().manual_seed(0))
    image[..., :5, :] = image[:, :1, :5].round()  # black, white
    image[..., 5:10, :] = image[:, :1, 5:10]  # grey
    image[..., 10:15, :] = image[..., 10:15, :].round()  # pure colours
    numbers = np.linspace(-0.5, 0.5, 41) if kind == 3 else np.linspace(0.5, 1.5, 41)
    for number in numbers.tolist():
        ours = change(255 * image, [number])
        # It has 0.2989 of red, which with the other two does not make 1.
        tolerance = 1e-3 if kind in (0, 3) else 0.04
        assert (ours - 255 * CHANGES[kind](image, number)).abs().max() < tolerance


def test_a_batch_is_changed_as_its_images_are():
    """As on a GPU; sums are in another order, so that a value may be rounded otherwise."""
    images = torch.randint(
        0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    rows = drawn(40)
    one_by_one = change_colours(images, rows).int()
    together = colours._changed(images.float(), rows.tolist()).round().int()
    assert (one_by_one - together).abs().max() <= 1
    assert (one_by_one != together).float().mean() < 1e-3
    assert (together - of_floats(images, rows)).abs().max() <= 1


def test_number_of_threads_changes_nothing():
    images = torch.randint(0, 256, (6, 3, 223, 225), dtype=torch.uint8)
    rows, threads = drawn(6), torch.get_num_threads()
    try:
        found = []
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(change_colours(images, rows))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_images_are_left_alone_unless_they_are_the_place_of_the_result():
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    before, rows = images.clone(), drawn(3)
    changed = change_colours(images, rows)
    assert torch.equal(images, before)
    assert not changed.is_inference()
    assert change_colours(images, rows, out=images) is images
    assert torch.equal(images, changed)
    assert change_colours(images[:0], rows[:0]).shape == (0, 3, 8, 8)


def test_draws_are_distributed_as_torchvisions():
    rows = drawn(4800)
    assert rows.shape == (4800, COLOURS)
    for kind, middle in enumerate((1, 1, 1, 0)):
        found = (rows[:, kind] - (middle - STRENGTH)) / (2 * STRENGTH)
        assert kstest(found, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(rows[:, :4].T) - np.eye(4)).max() < 0.06
    _, counts = np.unique(rows[:, 4:8], axis=0, return_counts=True)
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 0.001
    assert abs(rows[:, 8].mean() - GREY) < 3.3 * np.sqrt(GREY * (1 - GREY) / 4800)
    theirs = v2.ColorJitter(0.3, 0.3, 0.3, 0.3)
    assert theirs.brightness == theirs.contrast == theirs.saturation == (0.7, 1.3)
    assert theirs.hue == (-0.3, 0.3)
    assert (STRENGTH, GREY) == (0.3, 0.1)  # as in scmd.data.transforms
