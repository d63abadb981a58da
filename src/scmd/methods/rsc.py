"""RSC: representation self-challenging, training without the features that decide most.

Source: Huang, Wang, Xing and Huang, "Self-Challenging Improves Cross-Domain Generalization",
ECCV 2020, arXiv:2007.02454; on the pooled features, as in DomainBed (Gulrajani and Lopez-Paz, ICLR
2021, arXiv:2007.01434). DomainBed mutes where a value reaches a percentile; here it is a number of
features and of samples, which is the same but for rounding and lets 0 mean none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.losses import classification, sample_cross_entropy
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.search import SearchSpace, Uniform
from scmd.models.images import as_float


@dataclass(frozen=True)
class RSCConfig(MethodConfig):
    """Hyper-parameters of RSC; the defaults are DomainBed's."""

    feature_fraction: float = 1 / 3
    """Part of a sample's features that is muted: those with the largest gradients."""
    batch_fraction: float = 1 / 3
    """Part of the batch that is muted: the samples whose right class loses most by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("feature_fraction", "batch_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ScmdError(f"{name} = {getattr(self, name)}: give a number in [0, 1)")


class RSC(Method):
    """Cross-entropy, with the most decisive features of a part of the samples set to 0."""

    Config = RSCConfig
    config: RSCConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "feature_fraction": Uniform(0, 0.5),
        "batch_fraction": Uniform(0, 0.5),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE of the muted features."""
        features = self.backbone(as_float(batch.images))
        logits = self.classifier(features)
        muted = self.muted(features.detach(), logits.detach(), batch.labels)
        challenged = self.classifier(features.masked_fill(muted, 0))
        ce = classification(challenged, batch.labels)
        whole = classification(logits.detach(), batch.labels)
        return {"loss": ce, "ce": ce.detach(), "whole_ce": whole}

    def muted(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Which features are muted (equations 1 to 3 and section 3.3): bool [B, F].

        Args:
            features: f(x), [B, F], without gradient.
            logits: Those of the whole features, [B, C], without gradient.
            labels: int64 [B].
        """
        # The classifier is linear: the gradient of z_y for the features is the row of y.
        gradients = self.classifier.weight.detach()[labels]
        decisive = largest(gradients, self.config.feature_fraction)
        muted_logits = self.classifier(features.masked_fill(decisive, 0)).detach()
        lost = _probability(logits, labels) - _probability(muted_logits, labels)
        return decisive & largest(lost, self.config.batch_fraction)[:, None]


def largest(values: Tensor, fraction: float) -> Tensor:
    """Marks the round(fraction · n) largest values along the last dimension, of n: bool."""
    places = values.topk(round(fraction * values.shape[-1]), dim=-1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, places, True)


def _probability(logits: Tensor, labels: Tensor) -> Tensor:
    return (-sample_cross_entropy(logits, labels)).exp()
