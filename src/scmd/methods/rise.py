"""RISE: KD, and features that stand to the class texts as the text of their label does.

Source: Huang, Zhou, Lin, Cai, Wang and Lee, "A Sentence Speaks a Thousand Images: Domain
Generalization through Distilling CLIP with Language Guidance", ICCV 2023, arXiv:2309.12530, and its
released code, github.com/WisconsinAIVision/RISE (train_rise.py, data/hp_search).

From there: the form of the two distances (a cosine distance; a squared difference of softmaxes of
cosines, without temperature, times 10), τ = 3, and one weight w for both distances, searched in
{0.5, 1, 2}. The code weighs α L_logits + (1 − α) L_CE + w (L_AD + 10 L_RD), with α of 0.8 or 0.9 on
PACS, 0.1 or 0.2 on OfficeHome and 0.2 or 0.3 on TerraIncognita. With a weight of 1 for L_CE that is
a λ1 = α/(1 − α) between 1/9 and 9, and a λ_A = w/(1 − α) between 0.55 and 20.

Different here, so that every method of a comparison has the same student and the same prompts:

- the relative distance compares with the texts of all classes. The paper's anchors are texts of the
  label's class in other styles ("an art painting of a dog"), which a teacher here does not have.
  It is scaled so that it does not vanish where classes are many;
- P maps the student's features into the teacher's space, apart from the classifier. In the released
  code the student has a layer of CLIP's size, and a classifier on it that starts from the texts.

Uncertain: whether the paper's tables were made with the released code's weights, and what λ1 = 0.5
(that of KD here) does to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from scmd.data.loader import Batch
from scmd.losses import classification, logit_distillation
from scmd.losses_distillation import text_distance, text_relation
from scmd.methods.base import Method, Output, ProjectingMethod
from scmd.methods.kd import KDConfig
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class RISEConfig(KDConfig):
    """Hyper-parameters of RISE."""

    absolute_weight: float = 1.0
    """λ_A, weight of the two distances; L_AD is the one to the text of the label."""
    relative_weight: float = 10.0
    """λ_R, weight within them of L_RD, the relation to all texts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("absolute_weight", "relative_weight")


class RISE(ProjectingMethod):
    """L_CE + λ1 L_logits + λ_A (L_AD + λ_R L_RD); P is ``projection``, linear and without bias."""

    Config = RISEConfig
    config: RISEConfig
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "lambda1": LogUniform(0.1, 10),
        "absolute_weight": LogUniform(0.5, 20),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """The loss of KD and the two distances, on the whole batch."""
        config, texts = self.config, self.teacher.text_embeddings
        images = as_float(batch.images)
        features = self.backbone(images)
        logits, projected = self.classifier(features), self.projection(features)
        with torch.no_grad():
            opinion = self.teacher.logits(images, batch.teacher_ids)
        ce = classification(logits, batch.labels)
        distilled = logit_distillation(opinion, logits, config.temperature)
        absolute = text_distance(projected, texts, batch.labels)
        relative = text_relation(projected, texts, batch.labels)
        loss = (
            ce
            + config.lambda1 * distilled
            + config.absolute_weight * (absolute + config.relative_weight * relative)
        )
        return {
            "loss": loss,
            "ce": ce.detach(),
            "logits": distilled.detach(),
            "absolute": absolute.detach(),
            "relative": relative.detach(),
        }
