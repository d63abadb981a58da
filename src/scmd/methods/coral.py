"""CORAL: features whose means and covariances are alike in all sources.

Source: Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016
workshops, arXiv:1607.01719; between all pairs of sources, with the means and with averages over the
entries as in DomainBed (Gulrajani and Lopez-Paz, ICLR 2021, arXiv:2007.01434). The paper has the
covariances only, and their squared distance over 4 F².
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scmd.data.loader import Batch
from scmd.losses import classification
from scmd.losses_domains import coral_distance
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.per_domain import rows_by_domain
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class CORALConfig(MethodConfig):
    """Hyper-parameters of CORAL; the defaults are DomainBed's."""

    penalty_weight: float = 1.0
    """γ, weight of the distance between the sources."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("penalty_weight")


class CORAL(Method):
    """L_CE + γ · the distance of the sources' features, a mean over the pairs of sources."""

    Config = CORALConfig
    config: CORALConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "penalty_weight": LogUniform(0.1, 10),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE + γ · distance."""
        features = self.backbone(as_float(batch.images))
        ce = classification(self.classifier(features), batch.labels)
        penalty = coral_distance(
            [features[rows] for rows in rows_by_domain(batch.domains, images=2)]
        )
        loss = ce + self.config.penalty_weight * penalty
        return {"loss": loss, "ce": ce.detach(), "penalty": penalty.detach()}
