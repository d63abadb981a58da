"""MMD: features whose distributions are alike in all sources, as seen by Gaussian kernels.

Source: Li, Pan, Wang and Kot, "Domain Generalization with Adversarial Feature Learning", CVPR 2018,
without its autoencoder, as in DomainBed (Gulrajani and Lopez-Paz, ICLR 2021, arXiv:2007.01434),
which has the kernels' rates and the mean over all pairs of sources.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scmd.losses_domains import mmd_distance
from scmd.methods.alignment import AligningMethod, AlignmentConfig
from scmd.methods.per_domain import rows_by_domain


@dataclass(frozen=True)
class MMDConfig(AlignmentConfig):
    """Hyper-parameters of MMD; the defaults are DomainBed's."""


class MMD(AligningMethod):
    """L_CE + γ · the squared MMD of the sources' features, a mean over the pairs of sources."""

    Config = MMDConfig

    def distance(self, features: Tensor, domains: Tensor) -> Tensor:
        """Between the sources."""
        return mmd_distance([features[rows] for rows in rows_by_domain(domains)])
