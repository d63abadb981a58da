"""CausIRL: features that are alike in any two mixtures of the sources.

Source: Chevalley, Bunne, Krause and Bauer, "Invariant Causal Mechanisms through Distribution
Matching", arXiv:2206.11646: what does not depend on the domain has the same distribution however
the domains are mixed. As in DomainBed every source's images are cut at a random place, and the
distance is that of CORAL or of MMD (its CausIRL_CORAL and CausIRL_MMD).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.losses import classification
from scmd.losses_domains import coral_distance, mmd_distance
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.per_domain import rows_by_domain
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float

DistanceName = Literal["coral", "mmd"]
_DISTANCES = {"coral": coral_distance, "mmd": mmd_distance}


@dataclass(frozen=True)
class CausIRLConfig(MethodConfig):
    """Hyper-parameters of CausIRL; the defaults are DomainBed's."""

    distance: DistanceName = "coral"
    """Between the two mixtures: of means and covariances, or of Gaussian kernels."""
    penalty_weight: float = 1.0
    """γ, weight of that distance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("penalty_weight")
        if self.distance not in _DISTANCES:
            raise ScmdError(f"distance = {self.distance!r}: choose from {', '.join(_DISTANCES)}")


class CausIRL(Method):
    """L_CE + γ · the distance of the features of two random mixtures of the sources.

    Where one of the two has fewer than two images there is no distance, and it is 0.
    """

    Config = CausIRLConfig
    config: CausIRLConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "penalty_weight": LogUniform(0.1, 10),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE + γ · distance."""
        features = self.backbone(as_float(batch.images))
        ce = classification(self.classifier(features), batch.labels)
        halves = random_mixtures(rows_by_domain(batch.domains))
        penalty = torch.zeros_like(ce)
        if min(len(rows) for rows in halves) > 1:
            penalty = _DISTANCES[self.config.distance]([features[rows] for rows in halves])
        loss = ce + self.config.penalty_weight * penalty
        return {"loss": loss, "ce": ce.detach(), "penalty": penalty.detach()}


def random_mixtures(domains: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Two groups that share no image, with a random number of every domain's images in each.

    Of a domain of n images the first group has k, any number below n, and the second the rest.
    Draws from torch's global generator.

    Args:
        domains: Per domain its rows of the batch, int64 [n].

    Returns:
        The rows of the two groups, int64.
    """
    cuts = [int(torch.randint(len(rows), ())) for rows in domains]
    pairs = list(zip(domains, cuts, strict=True))
    return torch.cat([r[:cut] for r, cut in pairs]), torch.cat([r[cut:] for r, cut in pairs])
