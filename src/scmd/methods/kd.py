"""Knowledge distillation: ERM and the teacher's logits, on the whole batch.

Source: Hinton, Vinyals and Dean, arXiv:1503.02531; here with CLIP's zero-shot logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from scmd.data.loader import Batch
from scmd.losses import classification, logit_distillation
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.search import SearchSpace, Uniform
from scmd.models.images import as_float


@dataclass(frozen=True)
class KDConfig(MethodConfig):
    """Hyper-parameters of KD; the defaults are SCMD's."""

    lambda1: float = 0.5
    """λ1, weight of L_logits."""
    temperature: float = 3.0
    """τ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("lambda1")
        self.require_positive("temperature")


class KD(Method):
    """L_CE + λ1 L_logits, without selection and without L_CM."""

    Config = KDConfig
    config: KDConfig
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "lambda1": Uniform(0.5, 1),
        "temperature": Uniform(2, 5),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE + λ1 L_logits."""
        images = as_float(batch.images)
        logits = self.predict(images)
        ce = classification(logits, batch.labels)
        with torch.no_grad():
            opinion = self.teacher.logits(images, batch.teacher_ids)
        distilled = logit_distillation(opinion, logits, self.config.temperature)
        loss = ce + self.config.lambda1 * distilled
        return {"loss": loss, "ce": ce.detach(), "logits": distilled.detach()}
