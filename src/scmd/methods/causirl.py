"""CausIRL: features that are alike in any two mixtures of the sources.

Source: Chevalley, Bunne, Krause and Bauer, "Invariant Causal Mechanisms through Distribution
Matching", arXiv:2206.11646: what does not depend on the domain has the same distribution however
the domains are mixed. As in DomainBed every source's images are cut at a random place, and the
distance is that of CORAL or of MMD (its CausIRL_CORAL and CausIRL_MMD).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from scmd.errors import ScmdError
from scmd.losses_domains import coral_distance, mmd_distance
from scmd.methods.alignment import AligningMethod, AlignmentConfig
from scmd.methods.per_domain import rows_by_domain

DistanceName = Literal["coral", "mmd"]
_DISTANCES = {"coral": coral_distance, "mmd": mmd_distance}


@dataclass(frozen=True)
class CausIRLConfig(AlignmentConfig):
    """Hyper-parameters of CausIRL; the defaults are DomainBed's."""

    distance: DistanceName = "coral"
    """Between the two mixtures: of means and covariances, or of Gaussian kernels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance not in _DISTANCES:
            raise ScmdError(f"distance = {self.distance!r}: choose from {', '.join(_DISTANCES)}")


class CausIRL(AligningMethod):
    """L_CE + γ · the distance of the features of two random mixtures of the sources.

    Where one of the two has fewer than two images there is no distance, and it is 0.
    """

    Config = CausIRLConfig

    def distance(self, features: Tensor, domains: Tensor) -> Tensor:
        """Of the two mixtures."""
        halves = random_mixtures(rows_by_domain(domains))
        if min(len(rows) for rows in halves) < 2:
            return features.new_zeros((), dtype=torch.float32)
        between = _DISTANCES[cast(CausIRLConfig, self.config).distance]
        return between([features[rows] for rows in halves])


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
