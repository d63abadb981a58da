"""Small parts that stand in for a student's backbone and for a teacher, and batches for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scmd.data.loader import Batch

CLASSES, EMBEDDING, FEATURES, SIDE = 4, 5, 6, 4


class ToyBackbone(nn.Module):
    """The pixels, flattened and mapped linearly, then batch norm and dropout where wanted."""

    def __init__(
        self,
        num_features: int = FEATURES,
        batch_norm: bool = False,
        dropout: float = 0.0,
        tells_features: bool = True,
    ) -> None:
        super().__init__()
        if tells_features:
            self.num_features = num_features
        self.linear = nn.Linear(3 * SIDE * SIDE, num_features)
        self.norm = nn.BatchNorm1d(num_features) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(self.norm(self.linear(images.flatten(1))))


class ToyTeacher(nn.Module):
    """Remembers an opinion per sample id, and what it was asked.

    It is a module, and its tensors could be trained, so that a method that registers it or lets
    gradients into it is found out.
    """

    def __init__(self, samples: int = 64, seed: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        texts = torch.randn(CLASSES, EMBEDDING, generator=generator)
        self.text_embeddings: Tensor = nn.Parameter(F.normalize(texts, dim=-1))
        self.table: Tensor = nn.Parameter(4 * torch.randn(samples, CLASSES, generator=generator))
        pictures = torch.randn(samples, EMBEDDING, generator=generator)
        self.image_table: Tensor = nn.Parameter(F.normalize(pictures, dim=-1))
        self.asked: list[tuple[Tensor, Tensor, bool]] = []

    def logits(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        self.asked.append((images, sample_ids, torch.is_grad_enabled()))
        return self.table[sample_ids]

    def embeddings(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        return self.image_table[sample_ids]


def make_batch(seed: int = 0, size: int = 20, domains: int = 2) -> Batch:
    """uint8 noise, labels at random, domains in blocks, ids in no order."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randint(0, 256, (size, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8),
        torch.randint(0, CLASSES, (size,), generator=generator),
        torch.arange(size) * domains // size,
        torch.randperm(64, generator=generator)[:size],
    )
