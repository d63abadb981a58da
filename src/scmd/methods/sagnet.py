"""SagNet: a classifier that looks at content, and features from which style cannot decide.

Source: Nam, Lee, Park, Yoon and Yoo, "Reducing Domain Gap by Reducing Style Bias", CVPR 2021,
arXiv:1910.11645. As in DomainBed (Gulrajani and Lopez-Paz, ICLR 2021, arXiv:2007.01434) it acts on
the pooled features, so that it takes any backbone: a feature vector's style is its mean and
variance over the features, its content what is left when they are normalised away, and the style
network is linear. The paper acts on feature maps after a stage, with a copy of the later layers as
the style network. (On maps right before an average over their places nothing would be left of the
content.) DomainBed takes turns, an optimizer step for each loss; here all three are learned in
every step, and each reaches the parameters that it reaches there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scmd.data.loader import Batch
from scmd.losses import classification
from scmd.methods.base import Method, MethodConfig, Output, linear
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float
from scmd.models.teacher import Teacher

EPS = 1e-5


@dataclass(frozen=True)
class SagNetConfig(MethodConfig):
    """Hyper-parameters of SagNet; the defaults are DomainBed's."""

    adversarial_weight: float = 0.1
    """λ_adv, weight of the loss by which the backbone makes style useless."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("adversarial_weight")


class SagNet(Method):
    """L_content + L_style + λ_adv L_adv.

    L_content, of classifier and backbone: the label from features with another image's style.
    L_style, of the style classifier alone: the label from features with another image's content.
    L_adv, of the backbone alone: on such features the style classifier is to be undecided.
    """

    Config = SagNetConfig
    config: SagNetConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "adversarial_weight": LogUniform(0.01, 10),
    }

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: SagNetConfig | None = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__(backbone, teacher, config, num_classes, num_domains)
        self.style_classifier = linear(backbone, self.num_classes)

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_content + L_style + λ_adv L_adv."""
        features, labels = self.backbone(as_float(batch.images)), batch.labels
        swap, part = self.draw(len(labels), features.device)
        ce = classification(self.classifier(randomize_style(features, swap, part)), labels)
        swapped = randomize_content(features, swap)
        style = classification(self.style_classifier(swapped.detach()), labels)
        weight, bias = self.style_classifier.weight, self.style_classifier.bias
        logits = F.linear(swapped, weight.detach(), bias.detach())
        adversarial = -logits.float().log_softmax(1).mean()
        loss = ce + style + self.config.adversarial_weight * adversarial
        parts = {"ce": ce, "style": style, "adversarial": adversarial}
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    def draw(self, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Whom every image takes from, int64 [B], and how much of its style it keeps, [B, 1].

        From torch's global generator.
        """
        return torch.randperm(number).to(device), torch.rand(number, 1).to(device)


def randomize_style(features: Tensor, swap: Tensor, part: Tensor) -> Tensor:
    """Each image's content, with a mixture of its own style and another's: float32 [B, F].

    Args:
        features: [B, F].
        swap: The other image, int64 [B].
        part: α, of its own mean and variance, in [0, 1]: [B, 1].
    """
    content, mean, variance = content_and_style(features)
    mean = part * mean + (1 - part) * mean[swap]
    variance = part * variance + (1 - part) * variance[swap]
    return content * (variance + EPS).sqrt() + mean


def randomize_content(features: Tensor, swap: Tensor) -> Tensor:
    """Each image's style with another's content, which is a constant: float32 [B, F]."""
    content, mean, variance = content_and_style(features)
    return content[swap].detach() * (variance + EPS).sqrt() + mean


def content_and_style(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features normalised, and their means and variances: float32 [B, F], [B, 1], [B, 1]."""
    features = features.float()
    mean, variance = features.mean(1, keepdim=True), features.var(1, keepdim=True)
    return (features - mean) / (variance + EPS).sqrt(), mean, variance
