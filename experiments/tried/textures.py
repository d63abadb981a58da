"""Students that see images through random filters, and a teacher that sees them as they are.

Source: Xu, Liu, Yang, Raffel and Niethammer, "Robust and Generalizable Visual Representation
Learning via Random Convolutions", ICLR 2021, arXiv:2007.13003: a random convolution changes the
texture and colours of an image and keeps its shapes. Theirs has no teacher; to ask it about the
image as it is follows Xie et al., "Self-training with Noisy Student", CVPR 2020, arXiv:1911.04252.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scmd.data.loader import Batch
from scmd.methods.base import Output
from scmd.methods.scmd import SCMD, SCMDConfig
from scmd.models.images import as_float

SIDES = (1, 3, 5, 7)
"""Of a filter, in pixels; each as likely."""
_MIDDLE = 0.5
_SPREAD = 0.25


@dataclass(frozen=True)
class TexturesConfig(SCMDConfig):
    """Of ``Textures``."""

    part: float = 0.5
    """Of the images, so many are filtered."""


class Textures(SCMD):
    """SCMD whose student selects and learns from filtered images.

    ERM and KD on the same images are this with λ1 = λ2 = 0 and with λ2 = 0, without selection.
    """

    Config = TexturesConfig
    config: TexturesConfig  # type: ignore[assignment]

    def forward(self, batch: Batch, progress: float) -> Output:
        """SCMD's."""
        self._seen = as_float(batch.images), batch.teacher_ids
        filtered = through_random_filters(self._seen[0], self.config.part)
        return super().forward(Batch(filtered, *batch[1:]), progress)

    @torch.no_grad()
    def _opinion(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        as_they_are, ids = self._seen
        rows = (sample_ids[:, None] == ids[None]).int().argmax(1)
        return super()._opinion(as_they_are[rows], sample_ids)


def through_random_filters(images: Tensor, part: float) -> Tensor:
    """Some of a batch's images, each mixed with what a random filter of its own makes of it.

    Args:
        images: float [B, 3, H, W] in [0, 1].
        part: The chance of each image to be filtered.

    Returns:
        The same shape and range; what is drawn comes from torch's global generator.
    """
    n, largest = len(images), max(SIDES)
    weights = torch.randn(n, 3, 3, largest, largest)
    sides = torch.tensor(SIDES)[torch.randint(len(SIDES), (n,))]
    away = (torch.arange(largest) - largest // 2).abs()
    inside = away[None] <= sides[:, None] // 2
    window = (inside[:, :, None] & inside[:, None, :])[:, None, None]
    # The variance of a filter's answer is about that of the pixels.
    weights = weights * window / (3 * sides.float() ** 2).sqrt().view(-1, 1, 1, 1, 1)
    kept = torch.where(torch.rand(n) < part, torch.rand(n), torch.ones(n))
    weights, kept = weights.to(images), kept.to(images).view(-1, 1, 1, 1)

    centred = (images - _MIDDLE) / _SPREAD
    padded = F.pad(centred, (largest // 2,) * 4, mode="replicate")
    answers = F.conv2d(padded.reshape(1, -1, *padded.shape[2:]), weights.flatten(0, 1), groups=n)
    mixed = kept * centred + (1 - kept) * answers.view_as(images)
    return (mixed * _SPREAD + _MIDDLE).clamp(0, 1)
