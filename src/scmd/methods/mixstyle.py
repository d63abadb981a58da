"""MixStyle: feature maps with mixed statistics of two sources.

Source: Zhou, Yang, Qiao and Xiang, "Domain Generalization with MixStyle", ICLR 2021,
arXiv:2104.02008, with domain labels: an image's partner is of another source. As in its code for
ResNets, maps are mixed after the three stages before the last (``methods/layers.py``). A backbone
that is no timm model, or whose stages give no maps, has its images mixed, by their own channels.
DomainBed does not have MixStyle: the defaults are those of the paper's code, and the range of α is
what the paper tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.losses import classification
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.layers import changed_features, channel_place, stages
from scmd.methods.per_domain import random_pairs, rows_by_domain
from scmd.methods.search import Choice, SearchSpace
from scmd.models.images import as_float
from scmd.models.teacher import Teacher

EPS = 1e-6
MIXED_STAGES = 3


@dataclass(frozen=True)
class MixStyleConfig(MethodConfig):
    """Hyper-parameters of MixStyle; the defaults are those of the paper's code."""

    probability: float = 0.5
    """p, of mixing after a stage, for the whole batch."""
    alpha: float = 0.1
    """α: the part λ of an image's own statistics is drawn from Beta(α, α)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("alpha")
        if not 0 <= self.probability <= 1:
            raise ScmdError(f"probability = {self.probability}: give a number in [0, 1]")


class MixStyle(Method):
    """Cross-entropy, with the statistics of feature maps mixed between sources.

    ``predict`` mixes nothing. Labels are the images' own.
    """

    Config = MixStyleConfig
    config: MixStyleConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "alpha": Choice((0.1, 0.2, 0.3)),
    }

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: MixStyleConfig | None = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__(backbone, teacher, config, num_classes, num_domains)
        self._stages = dict(list(stages(backbone).items())[:-1][-MIXED_STAGES:])

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE of mixed features."""
        images = as_float(batch.images)
        if self._stages:
            chosen = {name: c for name, c in self._stages.items() if self.mixes()}
            changes = {
                name: partial(mix_statistics, *self.draw(batch.domains), channels=channels)
                for name, channels in chosen.items()
            }
            features = changed_features(self.backbone, changes, images)
        else:
            if self.mixes():
                images = mix_statistics(*self.draw(batch.domains), images, images.shape[1])
            features = self.backbone(images)
        ce = classification(self.classifier(features), batch.labels)
        return {"loss": ce, "ce": ce.detach()}

    def mixes(self) -> bool:
        """Whether a stage mixes in this step; from torch's global generator."""
        return bool(torch.rand(()) < self.config.probability)

    def draw(self, domains: Tensor) -> tuple[Tensor, Tensor]:
        """Every image's partner, int64 [B], and its own part λ, [B]; from the global generator."""
        alpha = self.config.alpha
        part = torch.distributions.Beta(alpha, alpha).sample(domains.shape)
        return random_partners(domains), part.to(domains.device)


def random_partners(domains: Tensor) -> Tensor:
    """For every image one of another domain, int64 [B]; draws from torch's global generator.

    All images of a domain have theirs in the same other domain, and where domains have as many
    images each image is the partner of one.
    """
    rows = rows_by_domain(domains)
    partners = torch.empty_like(domains)
    for own, other in random_pairs(len(rows)):
        order = rows[other][torch.randperm(len(rows[other])).to(domains.device)]
        repeats = -(-len(rows[own]) // len(order))
        partners[rows[own]] = order.repeat(repeats)[: len(rows[own])]
    return partners


def mix_statistics(partners: Tensor, part: Tensor, features: Tensor, channels: int) -> Tensor:
    """Maps with the mixed means and deviations of each image and its partner.

    Means and deviations are per image and channel, over its places, and constants for the gradient.

    Args:
        partners: int64 [B].
        part: λ, of the image's own statistics, [B].
        features: x, with so many channels, see ``channel_place``.
        channels: C.

    Returns:
        As ``features`` in shape and type. What has no places, [B, C], is passed on.
    """
    place = channel_place(features, channels)
    if place is None or features.ndim < 3:
        return features
    places = [d for d in range(1, features.ndim) if d != place % features.ndim]
    x = features.float()
    with torch.no_grad():
        mean = x.mean(places, keepdim=True)
        deviation = (x.var(places, correction=0, keepdim=True) + EPS).sqrt()
        own = part.float().view(-1, *[1] * (x.ndim - 1))
        mixed_mean = own * mean + (1 - own) * mean[partners]
        mixed_deviation = own * deviation + (1 - own) * deviation[partners]
    return ((x - mean) / deviation * mixed_deviation + mixed_mean).to(features.dtype)
