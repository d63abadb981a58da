"""Relational knowledge distillation: ERM, and features that lie to each other as the teacher's do.

Source: Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068.
The weights 25 and 50 are the paper's for classification. Here its sums over pairs and triples are
means, and the teacher's side is its image embeddings, so that the weights carry over as a ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scmd.data.loader import Batch
from scmd.losses import classification
from scmd.losses_distillation import angle_relation, distance_relation
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class RKDConfig(MethodConfig):
    """Hyper-parameters of RKD; the defaults are the paper's."""

    distance_weight: float = 25.0
    """Weight of RKD-D, the distances of pairs."""
    angle_weight: float = 50.0
    """Weight of RKD-A, the angles of triples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("distance_weight", "angle_weight")


class RKD(Method):
    """L_CE + λ_D L_RKD-D + λ_A L_RKD-A, between f(x) and the teacher's image embeddings."""

    Config = RKDConfig
    config: RKDConfig
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "distance_weight": LogUniform(2.5, 250),
        "angle_weight": LogUniform(5, 500),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE and the two relations, over the whole batch."""
        images = as_float(batch.images)
        features = self.backbone(images)
        ce = classification(self.classifier(features), batch.labels)
        embeddings = self.teacher_embeddings(images, batch.teacher_ids)
        distance = distance_relation(features, embeddings)
        angle = angle_relation(features, embeddings)
        loss = ce + self.config.distance_weight * distance + self.config.angle_weight * angle
        return {
            "loss": loss,
            "ce": ce.detach(),
            "distance": distance.detach(),
            "angle": angle.detach(),
        }
