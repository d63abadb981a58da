"""Mixtures of images, about which a student and its teacher are asked alike.

After Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022,
arXiv:2106.05237, who distil on mixtures of any ratio and without labels. Here there are labels, so
an image always has the larger part of its mixture, and keeps its label. (The MixUp of torchvision
and of timm mixes the labels as well.)
"""

from __future__ import annotations

import torch

from scmd.data.loader import Batch


def mixed(batch: Batch) -> Batch:
    """A batch of λ x_i + (1 - λ) x_j, λ uniform in [0.5, 1] an image, with all else that of x_i.

    Draws j, a permutation of the batch, and λ from torch's global generator.

    Args:
        batch: Its images are floats [B, 3, H, W].
    """
    images = batch.images
    others = images[torch.randperm(len(images)).to(images.device)]
    part = (0.5 + torch.rand(len(images)) / 2).to(images).view(-1, 1, 1, 1)
    return batch._replace(images=part * images + (1 - part) * others)
