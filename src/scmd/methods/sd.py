"""SD: spectral decoupling, a decay of the logits in the place of a decay of the weights.

Source: Pezeshki, Kaba, Bengio, Courville, Precup and Lajoie, "Gradient Starvation: A Learning
Proclivity in Neural Networks", NeurIPS 2021, arXiv:2011.09468. As in DomainBed the square is a mean
over images and classes; the paper's is a sum over classes, halved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scmd.data.loader import Batch
from scmd.losses import classification
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class SDConfig(MethodConfig):
    """Hyper-parameters of SD; the defaults are DomainBed's."""

    penalty_weight: float = 0.1
    """λ, weight of the mean square of the logits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("penalty_weight")


class SD(Method):
    """L_CE + λ · the mean square of the logits."""

    Config = SDConfig
    config: SDConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "penalty_weight": LogUniform(1e-5, 0.1),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE + λ · penalty."""
        logits = self.predict(as_float(batch.images))
        ce, penalty = classification(logits, batch.labels), mean_square(logits)
        loss = ce + self.config.penalty_weight * penalty
        return {"loss": loss, "ce": ce.detach(), "penalty": penalty.detach()}


def mean_square(logits: Tensor) -> Tensor:
    """The mean of the squares of the logits [B, C], a scalar, float32."""
    return logits.float().square().mean()
