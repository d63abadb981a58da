"""Mixtures of images about which teacher and student are asked alike.

After Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022,
arXiv:2106.05237, who distil on mixtures with any ratio and without labels; here there are labels,
so an image always has the larger part of its mixture, and its label.
"""

from __future__ import annotations

import torch

from scmd.data.loader import Batch
from scmd.methods.base import Output
from scmd.methods.erm import ERM
from scmd.methods.scmd import SCMD
from scmd.models.images import as_float


class Mixtures(SCMD):
    """SCMD on mixtures."""

    def forward(self, batch: Batch, progress: float) -> Output:
        """SCMD's."""
        return super().forward(mixed(batch), progress)


class MixturesERM(ERM):
    """ERM on the same mixtures."""

    def forward(self, batch: Batch, progress: float) -> Output:
        """ERM's."""
        return super().forward(mixed(batch), progress)


def mixed(batch: Batch) -> Batch:
    """A batch of λ x_i + (1 - λ) x_j with the label of x_i, λ uniform in [0.5, 1] an image."""
    images = as_float(batch.images)
    others = images[torch.randperm(len(images)).to(images.device)]
    part = (0.5 + torch.rand(len(images)) / 2).to(images).view(-1, 1, 1, 1)
    return Batch(part * images + (1 - part) * others, *batch[1:])
