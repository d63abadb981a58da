"""CORAL: features whose means and covariances are alike in all sources.

Source: Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016
workshops, arXiv:1607.01719; between all pairs of sources, with the means and with averages over the
entries as in DomainBed (Gulrajani and Lopez-Paz, ICLR 2021, arXiv:2007.01434). The paper has the
covariances only, and their squared distance over 4 F².
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scmd.losses_domains import coral_distance
from scmd.methods.alignment import AligningMethod, AlignmentConfig
from scmd.methods.per_domain import rows_by_domain


@dataclass(frozen=True)
class CORALConfig(AlignmentConfig):
    """Hyper-parameters of CORAL; the defaults are DomainBed's."""


class CORAL(AligningMethod):
    """L_CE + γ · the distance of the sources' features, a mean over the pairs of sources."""

    Config = CORALConfig

    def distance(self, features: Tensor, domains: Tensor) -> Tensor:
        """Between the sources."""
        return coral_distance([features[rows] for rows in rows_by_domain(domains, images=2)])
