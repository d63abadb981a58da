"""What the methods share that bring the features of groups of images together."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scmd.data.loader import Batch
from scmd.losses import classification
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class AlignmentConfig(MethodConfig):
    """Hyper-parameters of an alignment; the defaults are DomainBed's."""

    penalty_weight: float = 1.0
    """γ, weight of the distance between the groups."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("penalty_weight")


class AligningMethod(Method):
    """L_CE + γ · the distance between groups of the batch's features."""

    config: AlignmentConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "penalty_weight": LogUniform(0.1, 10),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE + γ · distance."""
        features = self.backbone(as_float(batch.images))
        ce = classification(self.classifier(features), batch.labels)
        penalty = self.distance(features, batch.domains)
        loss = ce + self.config.penalty_weight * penalty
        return {"loss": loss, "ce": ce.detach(), "penalty": penalty.detach()}

    @abstractmethod
    def distance(self, features: Tensor, domains: Tensor) -> Tensor:
        """Between groups of features [B, F], whose domains are int64 [B]: a scalar."""
