"""Fishr: gradients whose variance is the same in all sources.

Source: Rame, Dancette and Cord, "Fishr: Invariant Gradient Variances for Out-of-Distribution
Generalization", ICML 2022, arXiv:2109.02934, on the classifier's gradients, with the variances'
moving average of its code and of DomainBed. As there, the penalty sets in after three tenths of
the steps (1,500 of 5,000). DomainBed makes a new Adam at that point; here the optimizer goes on
with the moments that it has, since a method has no hold on it. The classifier is linear, so that
the images' own gradients need not be made: see ``gradient_variance``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.losses import classification
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.layers import known_features
from scmd.methods.per_domain import require_domains, rows_by_domain
from scmd.methods.search import LogUniform, SearchSpace, Uniform
from scmd.models.images import as_float
from scmd.models.teacher import Teacher


@dataclass(frozen=True)
class FishrConfig(MethodConfig):
    """Hyper-parameters of Fishr; the defaults are DomainBed's."""

    penalty_weight: float = 1000.0
    """λ, weight of the penalty, from the end of the annealing on."""
    anneal: float = 0.3
    """Part of the steps, at the start, without penalty; from 1 on: all steps."""
    ema: float = 0.95
    """γ, how much of the variances' average stays from a step to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("penalty_weight", "anneal")
        if not 0 <= self.ema < 1:
            raise ScmdError(f"ema = {self.ema}: give a number in [0, 1)")

    def phases(self) -> tuple[float, ...]:
        """The end of the annealing."""
        return (self.anneal,) if 0 < self.anneal < 1 else ()


class Fishr(Method):
    """L_CE + λ · the mean squared distance of the sources' gradient variances from their mean.

    ``variances`` [D, C (F + 1)] is a buffer: the moving averages, 0 at first. ``forward`` works
    with the new ones and ``after_step`` keeps them, so that a forward that no step follows changes
    nothing. With several processes, each looks at its own share of a batch, and the first one's
    averages count.
    """

    Config = FishrConfig
    config: FishrConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "penalty_weight": LogUniform(10, 1e4),
        "anneal": Uniform(0, 1),
        "ema": Uniform(0.9, 0.99),
    }
    variances: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: FishrConfig | None = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__(backbone, teacher, config, num_classes, num_domains)
        numbers = self.num_classes * (known_features(backbone, "Fishr") + 1)
        self.register_buffer("variances", torch.zeros(self.num_domains, numbers))
        self._next_variances: Tensor | None = None

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE + λ · penalty, without penalty before the end of the annealing."""
        features = self.backbone(as_float(batch.images))
        logits = self.classifier(features)
        ce = classification(logits, batch.labels)
        rows_of = rows_by_domain(batch.domains)
        require_domains(len(rows_of), self.num_domains)
        new = torch.stack(
            [gradient_variance(features[r], logits[r], batch.labels[r]) for r in rows_of]
        )
        ema = self.config.ema
        averages = ema * self.variances + (1 - ema) * new
        self._next_variances = averages.detach()
        # Over 1 - γ, so that the gradient's size does not depend on γ.
        penalty = spread(averages / (1 - ema))
        weight = self.config.penalty_weight if progress >= self.config.anneal else 0.0
        return {"loss": ce + weight * penalty, "ce": ce.detach(), "penalty": penalty.detach()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the step's averages."""
        if self._next_variances is not None:
            self.variances.copy_(self._next_variances)
            self._next_variances = None


def gradient_variance(features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """The variance, over the images of a domain, of each entry of the classifier's gradient.

    An image's gradient is r for the bias and r zᵀ for the weight, with z its features and
    r = softmax(logits) - onehot(label). So the mean of the squares is the product of the squares of
    r and z, and the mean the product of r and z: E[r² z²] - E[r z]².

    Args:
        features: z, [n, F].
        logits: [n, C].
        labels: int64 [n].

    Returns:
        float32 [C (F + 1)]: for every class its F weights, then its bias; over n.
    """
    residuals = logits.float().softmax(1) - F.one_hot(labels, logits.shape[1])
    inputs = F.pad(features.float(), (0, 1), value=1.0)
    # Autocast would multiply in half precision.
    with torch.autocast(features.device.type, enabled=False):
        mean = residuals.T @ inputs / len(labels)
        mean_of_squares = residuals.square().T @ inputs.square() / len(labels)
    return (mean_of_squares - mean.square()).flatten()


def spread(variances: Tensor) -> Tensor:
    """The mean squared distance of the domains' variances [D, N] from their mean, a scalar."""
    return (variances - variances.mean(0)).square().mean()
