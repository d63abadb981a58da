"""V-REx: risks that are equal in all sources.

Source: Krueger et al., "Out-of-Distribution Generalization via Risk Extrapolation (REx)", ICML
2021, arXiv:2003.00688. As in DomainBed the penalty has the weight 1 in the first tenth of the steps
(500 of 5,000). DomainBed makes a new Adam at that point; here the optimizer goes on with the
moments that it has, since a method has no hold on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from scmd.data.loader import Batch
from scmd.losses import sample_cross_entropy
from scmd.methods.base import Method, Output
from scmd.methods.per_domain import AnnealedPenaltyConfig, domain_risks
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class VRExConfig(AnnealedPenaltyConfig):
    """Hyper-parameters of V-REx; the defaults are DomainBed's."""

    penalty_weight: float = 10.0
    """β, weight of the variance of the risks, from the end of the annealing on."""


class VREx(Method):
    """The mean of the sources' risks, and β times their variance."""

    Config = VRExConfig
    config: VRExConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "penalty_weight": LogUniform(0.1, 1e5),
        "anneal": LogUniform(2e-4, 2),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """Mean + β · variance of the risks."""
        losses = sample_cross_entropy(self.predict(as_float(batch.images)), batch.labels)
        risks = domain_risks(losses, batch.domains)
        ce, penalty = risks.mean(), variance(risks)
        loss = ce + self.config.weight(progress) * penalty
        return {"loss": loss, "ce": ce.detach(), "penalty": penalty.detach()}


def variance(risks: Tensor) -> Tensor:
    """The mean squared distance of the risks [D] from their mean, a scalar."""
    return risks.var(correction=0)
