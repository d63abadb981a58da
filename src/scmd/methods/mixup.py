"""Mixup of images of different sources.

Source: Zhang, Cissé, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018,
arXiv:1710.09412; between pairs of sources as in DomainBed (Gulrajani and Lopez-Paz, ICLR 2021,
arXiv:2007.01434).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scmd.data.loader import Batch
from scmd.losses import sample_cross_entropy
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.per_domain import random_pairs, rows_by_domain
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class MixupConfig(MethodConfig):
    """Hyper-parameters of Mixup; the defaults are DomainBed's."""

    alpha: float = 0.2
    """α: the part λ of the first image is drawn from Beta(α, α)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("alpha")


class Mixup(Method):
    """Cross-entropy on λ x_i + (1 - λ) x_j, with λ y_i + (1 - λ) y_j as its labels.

    x_i and x_j are of two sources; every source is once the first of a pair and once the second,
    and a pair of sources has one λ.
    """

    Config = MixupConfig
    config: MixupConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {**Method.search_space, "alpha": LogUniform(0.1, 10)}

    def forward(self, batch: Batch, progress: float) -> Output:
        """The mixed cross-entropy."""
        rows = rows_by_domain(batch.domains)
        pairs = random_pairs(len(rows))
        count = min(len(part) for part in rows)
        first = torch.cat([rows[i][:count] for i, _ in pairs])
        second = torch.cat([rows[j][:count] for _, j in pairs])
        part = self.draw(len(pairs)).to(first.device).repeat_interleave(count)

        images, labels = as_float(batch.images), batch.labels
        part_of_images = part.view(-1, 1, 1, 1)
        mixed = part_of_images * images[first] + (1 - part_of_images) * images[second]
        logits = self.predict(mixed)
        losses = part * sample_cross_entropy(logits, labels[first])
        losses = losses + (1 - part) * sample_cross_entropy(logits, labels[second])
        ce = losses.mean()
        return {"loss": ce, "ce": ce.detach()}

    def draw(self, number: int) -> Tensor:
        """λ of every pair, [number], from torch's global generator."""
        alpha = self.config.alpha
        return torch.distributions.Beta(alpha, alpha).sample(torch.Size([number]))
