"""FitNet: ERM, and features that are the teacher's.

Source: Romero, Ballas, Kahou, Chassang, Gatta and Bengio, "FitNets: Hints for Thin Deep Nets",
ICLR 2015, arXiv:1412.6550. There a hint of a middle layer prepares the student in a stage of its
own; here the hint is at the last layer, the teacher's image embedding, and joins the loss of every
step. Both sides are L2-normalised, since CLIP's embeddings mean something up to their length only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from scmd.data.loader import Batch
from scmd.losses import classification
from scmd.losses_distillation import hint
from scmd.methods.base import Method, MethodConfig, Output, ProjectingMethod
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class FitNetConfig(MethodConfig):
    """Hyper-parameters of FitNet."""

    hint_weight: float = 1.0
    """λ, weight of the hint; ours, as the paper has no such sum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("hint_weight")


class FitNet(ProjectingMethod):
    """L_CE + λ ‖P f(x)/‖P f(x)‖ − φ_img(x)‖²; P is ``projection``, linear and without bias."""

    Config = FitNetConfig
    config: FitNetConfig
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "hint_weight": LogUniform(0.1, 10),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE + λ times the hint."""
        images = as_float(batch.images)
        features = self.backbone(images)
        ce = classification(self.classifier(features), batch.labels)
        embeddings = self.teacher_embeddings(images, batch.teacher_ids)
        hinted = hint(self.projection(features), embeddings)
        loss = ce + self.config.hint_weight * hinted
        return {"loss": loss, "ce": ce.detach(), "hint": hinted.detach()}
