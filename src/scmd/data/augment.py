"""DomainBed's augmentation on tensors: equal in distribution to torchvision's, for less work.

What is drawn for an image depends on a seed alone. Crop and mirroring happen where an image is
read; its colours are changed there too, or later, with the whole batch, on a GPU.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from scmd.data.colours import change_colours, draw_colours
from scmd.data.transforms import Transform, augment, training_transform

AugmentationName = Literal["tensor", "torchvision"]

VERSION = 1
"""Of what a seed makes of an image."""
SCALE, RATIO = (0.7, 1.0), (3 / 4, 4 / 3)
"""Of a crop: its part of the image's area, and its width over its height."""


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented."""

    size: int
    """Side of the result in pixels."""
    flip: bool = True
    """Mirror by chance; off where left and right matter (digits, text)."""
    name: AugmentationName = "tensor"
    """``tensor``: this module's; ``torchvision``: that of ``scmd.data.transforms``."""

    @property
    def shorter_side(self) -> int | None:
        """What an image's shorter side is reduced to where it is longer; None: it never is.

        The smallest crop of an image has 0.7 of its area, and 3/4 or 4/3 as its ratio, so that
        its shorter side is at least √(0.7 · 3/4) = 0.72 of the image's. The image may be reduced
        until that is ``size``: then no crop of it has to be enlarged, and what it loses is what
        a crop of ``size`` pixels hardly shows.
        """
        if self.name == "torchvision":
            return None
        return math.ceil(self.size / math.sqrt(SCALE[0] * RATIO[0]))

    @property
    def description(self) -> str:
        """All that a view depends on besides its image and its seed."""
        if self.name == "torchvision":
            return repr(self._torchvision)
        return f"{self}, version {VERSION}"

    def view(self, image: np.ndarray | Image.Image, seed: int) -> Tensor:
        """What a seed makes of an image.

        Args:
            image: uint8 [H, W, 3], or an RGB picture.
            seed: Of everything that is drawn.

        Returns:
            uint8 [3, size, size].
        """
        if self.name == "torchvision":
            picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
            return augment(self._torchvision, picture, seed)
        view, colours = self.crop(image, seed)
        return change_colours(view[None], np.array([colours], np.float32))[0]

    def crop(self, image: np.ndarray | Image.Image, seed: int) -> tuple[Tensor, list[float]]:
        """The same, by ``tensor``, before colours are changed, and how they are to be.

        Returns:
            uint8 [3, size, size], and the [COLOURS] of ``change_colours``.
        """
        draw, pixels = random.Random(seed), np.asarray(image)
        height, width = pixels.shape[:2]
        box = draw_box(height, width, draw)
        mirrored = draw.random() < 0.5
        view = _resized(pixels, box, self.size, mirrored and self.flip)
        return view, draw_colours(draw)

    @cached_property
    def _torchvision(self) -> Transform:
        return training_transform(self.size, self.flip)


def draw_box(height: int, width: int, draw: random.Random) -> tuple[int, int, int, int]:
    """What to crop of an image, as torchvision's ``RandomResizedCrop`` draws it.

    Returns:
        top, left, height and width.
    """
    low, high = map(math.log, RATIO)
    for _ in range(10):
        area = height * width * draw.uniform(*SCALE)
        ratio = math.exp(draw.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(draw.random() * (height - h + 1))
            left = int(draw.random() * (width - w + 1))
            return top, left, h, w
    # An image that is too narrow for such crops: the largest in its middle.
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def _resized(
    pixels: np.ndarray, box: tuple[int, int, int, int], size: int, mirrored: bool
) -> Tensor:
    top, left, height, width = box
    # Copied, since what is mapped from a file cannot be written, and torch wants that it can.
    cut = torch.from_numpy(np.array(pixels[top : top + height, left : left + width]))
    planes = cut.permute(2, 0, 1)[None]
    view = F.interpolate(planes, (size, size), mode="bilinear", antialias=True)[0]
    return view.flip(-1) if mirrored else view
