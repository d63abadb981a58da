"""From a decoded picture to a uint8 tensor: augmented for training, plain for evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

Transform = Callable[[Image.Image], Tensor]


def training_transform(size: int, flip: bool = True) -> Transform:
    """DomainBed's augmentation; returns uint8 [3, size, size], not normalised.

    Args:
        size: Side of the result in pixels.
        flip: Mirror by chance; off where left and right matter (digits, text).
    """
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.7, 1.0)),
            *([v2.RandomHorizontalFlip()] if flip else []),
            v2.ColorJitter(0.3, 0.3, 0.3, 0.3),
            v2.RandomGrayscale(p=0.1),
            v2.PILToTensor(),
        ]
    )


def evaluation_transform(size: int) -> Transform:
    """Resize to a square without keeping the aspect, no crop; returns uint8 [3, size, size]."""
    return v2.Compose([v2.Resize((size, size)), v2.PILToTensor()])


def augment(transform: Transform, image: Image.Image, seed: int) -> Tensor:
    """Apply a random transform with draws that depend on ``seed`` alone.

    torchvision draws from the global generator; it is put back afterwards, so that neither the
    number of workers nor a resume changes what anyone draws.
    """
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        return transform(image)
