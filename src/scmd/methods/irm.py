"""IRM: a classifier that is optimal for all sources at once.

Source: Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", arXiv:1907.02893,
IRMv1, with the unbiased estimate of its penalty that the paper's own code has. As in DomainBed the
penalty has the weight 1 in the first tenth of the steps (500 of 5,000). DomainBed makes a new Adam
at that point; here the optimizer goes on with the moments that it has, since a method has no hold
on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scmd.data.loader import Batch
from scmd.losses import sample_cross_entropy
from scmd.methods.base import Method, Output
from scmd.methods.per_domain import AnnealedPenaltyConfig, rows_by_domain
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class IRMConfig(AnnealedPenaltyConfig):
    """Hyper-parameters of IRM; the defaults are DomainBed's."""

    penalty_weight: float = 100.0
    """λ, weight of the penalty, from the end of the annealing on."""


class IRM(Method):
    """The mean of the sources' risks, and λ times the mean of their penalties."""

    Config = IRMConfig
    config: IRMConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "penalty_weight": LogUniform(0.1, 1e5),
        "anneal": LogUniform(2e-4, 2),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """Mean risk + λ · mean penalty."""
        logits = self.predict(as_float(batch.images))
        losses = sample_cross_entropy(logits, batch.labels)
        rows_of = rows_by_domain(batch.domains, images=2)
        ce = torch.stack([losses[rows].mean() for rows in rows_of]).mean()
        penalty = torch.stack(
            [invariance_penalty(logits[rows], batch.labels[rows]) for rows in rows_of]
        ).mean()
        loss = ce + self.config.weight(progress) * penalty
        return {"loss": loss, "ce": ce.detach(), "penalty": penalty.detach()}


def invariance_penalty(logits: Tensor, labels: Tensor) -> Tensor:
    """An unbiased estimate of (d risk / d w)² at w = 1, a scalar that can be negative.

    w is the dummy classifier, a scale of the logits. The two factors are of different images: those
    of even and those of odd place.

    Args:
        logits: Of one domain, [n, C] with n ≥ 2.
        labels: int64 [n].
    """
    gradients = scale_gradients(logits, labels)
    return gradients[::2].mean() * gradients[1::2].mean()


def scale_gradients(logits: Tensor, labels: Tensor) -> Tensor:
    """d CE(w z, y) / d w at w = 1 of every image: Σ_c softmax(z)_c z_c - z_y, float32 [n]."""
    logits = logits.float()
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return (logits.softmax(1) * logits).sum(1) - own
