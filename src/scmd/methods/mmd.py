"""MMD: features whose distributions are alike in all sources, as seen by Gaussian kernels.

Source: Li, Pan, Wang and Kot, "Domain Generalization with Adversarial Feature Learning", CVPR 2018,
without its autoencoder, as in DomainBed (Gulrajani and Lopez-Paz, ICLR 2021, arXiv:2007.01434),
which has the kernels' rates and the mean over all pairs of sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scmd.data.loader import Batch
from scmd.losses import classification
from scmd.losses_domains import mmd_distance
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.per_domain import rows_by_domain
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class MMDConfig(MethodConfig):
    """Hyper-parameters of MMD; the defaults are DomainBed's."""

    penalty_weight: float = 1.0
    """γ, weight of the distance between the sources."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("penalty_weight")


class MMD(Method):
    """L_CE + γ · the squared MMD of the sources' features, a mean over the pairs of sources."""

    Config = MMDConfig
    config: MMDConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "penalty_weight": LogUniform(0.1, 10),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE + γ · distance."""
        features = self.backbone(as_float(batch.images))
        ce = classification(self.classifier(features), batch.labels)
        penalty = mmd_distance([features[rows] for rows in rows_by_domain(batch.domains)])
        loss = ce + self.config.penalty_weight * penalty
        return {"loss": loss, "ce": ce.detach(), "penalty": penalty.detach()}
