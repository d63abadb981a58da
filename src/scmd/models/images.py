"""What a network does to a batch of images before it sees them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

Interpolation = Literal["bilinear", "bicubic"]


def as_float(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]; uint8 is scaled, float is passed on. [B, 3, H, W]."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


class Normalize(nn.Module):
    """A network's own input size and normalisation, applied on the device.

    Maps float images in [0, 1], [B, 3, H, W], to [B, 3, size, size]. An image that has the size
    already is not resampled.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: Interpolation = "bilinear",
    ) -> None:
        super().__init__()
        self.size = size
        self.interpolation = InterpolationMode(interpolation)
        # Not persistent: they belong to the architecture's description, not to its weights.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Resize and normalise."""
        return self._at(images, self.size)

    def reduced(self, images: Tensor, resolution: float) -> Tensor:
        """The same at a part of the side: [B, 3, resolution · size, resolution · size]."""
        height, width = (max(1, round(resolution * side)) for side in self.size)
        return self._at(images, (height, width))

    def _at(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(images.shape[-2:]) != size:
            images = transforms.resize(
                images, list(size), interpolation=self.interpolation, antialias=True
            ).clamp(0, 1)  # bicubic overshoots
        return (images - self.mean) / self.std
