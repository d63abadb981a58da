"""MIRO: features that still tell what the features before the training were.

Source: Cha, Lee, Park and Chun, "Domain Generalization by Mutual-Information Regularization with
Pre-trained Models", ECCV 2022, arXiv:2203.10789. As in its experiments the mean encoder is the
identity and the variance encoder a bias per channel. The layers are the pooled features and, of a
timm backbone, its stages (``methods/layers.py``); the paper has the stages only, and of a ResNet's
stem what it gives after pooling.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scmd.data.loader import Batch
from scmd.losses import classification
from scmd.methods.base import Held, Method, MethodConfig, Output
from scmd.methods.layers import channel_place, known_features, layer_features, stages
from scmd.methods.search import Choice, SearchSpace
from scmd.models.images import as_float
from scmd.models.teacher import Teacher

VARIANCE_START, VARIANCE_MIN = 0.1, 1e-5


@dataclass(frozen=True)
class MIROConfig(MethodConfig):
    """Hyper-parameters of MIRO."""

    penalty_weight: float = 0.1
    """λ, weight of the regularization."""
    encoder_lr_factor: float = 10.0
    """Learning rate of the variance encoders, over lr."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("penalty_weight")
        self.require_positive("encoder_lr_factor")


class MIRO(Method):
    """L_CE + λ Σ_l mean(log σ_l² + (z_l - z⁰_l)² / σ_l²) / 2.

    z_l are the features of layer l, z⁰_l those of the backbone as it was when the method was built:
    a frozen copy, held out of parameters, state dict and averages. σ_l² is learned, per channel:
    softplus of ``variances``.
    """

    Config = MIROConfig
    config: MIROConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "penalty_weight": Choice((0.01, 0.1, 1.0)),
    }

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: MIROConfig | None = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__(backbone, teacher, config, num_classes, num_domains)
        num_features = known_features(backbone, "MIRO")
        start = copy.deepcopy(backbone).requires_grad_(False).eval()
        self._start = Held(start)
        self._stages = stages(start)
        bias = math.log(math.expm1(VARIANCE_START - VARIANCE_MIN))
        channels = (num_features, *self._stages.values())
        self.variances = nn.ParameterList([torch.full((count,), bias) for count in channels])

    def _apply(self, fn: Any, recurse: bool = True) -> MIRO:
        """What ``to`` and its like do, also to the frozen copy."""
        self._start.value._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE + λ · regularization."""
        images = as_float(batch.images)
        names = tuple(self._stages)
        features = layer_features(self.backbone, names, images)
        ce = classification(self.classifier(features[0]), batch.labels)
        with torch.no_grad():
            start = layer_features(self._start.value, names, images)
        layers = zip(features, start, self.variances, strict=True)
        penalty = torch.stack([information_bound(*layer) for layer in layers]).sum()
        loss = ce + self.config.penalty_weight * penalty
        return {"loss": loss, "ce": ce.detach(), "penalty": penalty.detach()}

    def param_groups(self) -> list[dict[str, Any]]:
        """The variance encoders have a larger learning rate."""
        return self.groups_apart("variances.", self.config.lr * self.config.encoder_lr_factor)


def information_bound(features: Tensor, start: Tensor, bias: Tensor) -> Tensor:
    """mean(log σ² + (z - z⁰)² / σ²) / 2, a scalar, float32.

    Args:
        features: z, with C channels, see ``channel_place``.
        start: z⁰, of the same shape; a constant.
        bias: σ² before softplus, [C].
    """
    variance = F.softplus(bias.float()) + VARIANCE_MIN
    place = channel_place(features, len(bias))
    assert place is not None
    difference = (features.float() - start.detach().float()).movedim(place, -1)
    return (difference.square() / variance + variance.log()).mean() / 2
