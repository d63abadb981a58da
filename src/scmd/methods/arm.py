"""ARM: adaptive risk minimization, features that are read in the context of their domain.

Source: Zhang, Marklund, Dhawan, Gupta, Levine and Finn, "Adaptive Risk Minimization: Learning to
Adapt to Domain Shift", NeurIPS 2021, arXiv:2007.02931, in its contextual form (ARM-CML): the
context of a domain is the mean, over its unlabelled images, of what a context network says.

What is different here. The paper, and DomainBed, hand the context to the network as a further
channel of its input, which a pretrained backbone does not have; and a saved student has no context
network. Here the context scales and shifts the features before the classifier, and of every
source's context the mean over the sources is subtracted. So backbone and classifier alone are the
student in the mean context of the sources: that is what ``predict`` computes, image by image, and
what model selection scores, and what is saved, exported and measured. **It does not adapt to the
target**, as DomainBed's ARM does with batches of it: its row in a table is that of training in
context. To adapt, ``adapted_classifier`` folds the context of unlabelled images into a classifier
that takes the place of the student's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from scmd.data.loader import Batch
from scmd.limits import require_whole
from scmd.losses import classification
from scmd.methods.base import MOST_UNITS, Method, MethodConfig, Output
from scmd.methods.layers import known_features
from scmd.methods.per_domain import rows_by_domain
from scmd.methods.search import Choice, SearchSpace
from scmd.models.images import as_float
from scmd.models.student import evaluating
from scmd.models.teacher import Teacher

MEAN_DECAY = 0.9
"""How much of the sources' mean context stays from a step to the next."""


@dataclass(frozen=True)
class ARMConfig(MethodConfig):
    """Hyper-parameters of ARM; DomainBed has no range for the context network, this one is ours."""

    width: int = 64
    """Units of the hidden layer of the context network; DomainBed's has as many channels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("width", self.width, 1, MOST_UNITS)


class ARM(Method):
    """L_CE of f · (1 + s_d) + t_d, where (s_d, t_d) is the context of the image's source d.

    It is c_d - mean_d c_d, c_d the mean of the context network's output over the images of d: where
    the sources are alike, ARM is ERM. ``mean_context`` [2F] is a buffer, a moving average of
    mean_d c_d, for who adapts later. With several processes, each looks at its own share of a
    batch, and the first one's average counts.
    """

    Config = ARMConfig
    config: ARMConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {**Method.search_space, "width": Choice((32, 64, 128))}
    mean_context: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: ARMConfig | None = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__(backbone, teacher, config, num_classes, num_domains)
        features = known_features(backbone, "ARM")
        width = self.config.width
        self.context_network = nn.Sequential(
            nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 2 * features)
        )
        self.register_buffer("mean_context", torch.zeros(2 * features))
        self._next_mean: Tensor | None = None

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE, every source in its context."""
        features = self.backbone(as_float(batch.images))
        rows_of = rows_by_domain(batch.domains)
        contexts = torch.stack([self.context(features[rows]) for rows in rows_of])
        mean = contexts.mean(0)
        self._next_mean = mean.detach()
        own = (contexts - mean)[batch.domains.unique(return_inverse=True)[1]]
        ce = classification(self.classifier(in_context(features, own)), batch.labels)
        size = (contexts - mean).detach().square().mean()
        return {"loss": ce, "ce": ce.detach(), "context": size}

    def context(self, features: Tensor) -> Tensor:
        """c, the mean over the features [n, F] of one domain, in any order: float32 [2F]."""
        return self.context_network(features).float().mean(0)

    @torch.no_grad()
    def after_step(self) -> None:
        """Follow the sources' mean context."""
        if self._next_mean is not None:
            self.mean_context.lerp_(self._next_mean, 1 - MEAN_DECAY)
            self._next_mean = None

    @torch.no_grad()
    def adapted_classifier(self, images: Tensor) -> nn.Linear:
        """The classifier in the context of these images, to be used after the same backbone.

        Args:
            images: Unlabelled, of one domain: float in [0, 1] or uint8, [n, 3, H, W].
        """
        with evaluating(self):
            scale, shift = (
                self.context(self.backbone(as_float(images))) - self.mean_context
            ).chunk(2)
        adapted = copy.deepcopy(self.classifier)
        adapted.bias.add_(adapted.weight @ shift)
        adapted.weight.mul_(1 + scale)
        return adapted


def in_context(features: Tensor, context: Tensor) -> Tensor:
    """f · (1 + s) + t: float32 [B, F].

    Args:
        features: f, [B, F].
        context: s, then t, [B, 2F].
    """
    scale, shift = context.chunk(2, dim=-1)
    return features.float() * (1 + scale) + shift
