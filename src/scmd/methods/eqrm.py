"""EQRM: a quantile of the sources' risks, between their mean and the worst of them.

Source: Eastwood, Robey, Singh, von Kügelgen, Hassani, Pappas and Schölkopf, "Probable Domain
Generalization via Quantile Risk Minimization", NeurIPS 2022, arXiv:2207.09944, algorithm 1. The
risks' distribution is estimated with Gaussian kernels. As in DomainBed the first half of the steps
(2,500 of 5,000) is ERM. DomainBed then goes on with a new Adam and a learning rate of 1e-6; here
the optimizer goes on as it is, since a method has no hold on it. DomainBed differentiates the steps
of the search for the quantile, which depend on the smallest and the largest risk and on the
kernels' width; here it is the quantile's own gradient, of which every risk has a share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.losses import sample_cross_entropy
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.per_domain import domain_risks
from scmd.methods.search import LogUniform, SearchSpace, Uniform
from scmd.models.images import as_float

HALVINGS = 40
TINY = 1e-12
"""Added to the risks' variance: the kernels' width is positive where all risks are equal."""


@dataclass(frozen=True)
class EQRMConfig(MethodConfig):
    """Hyper-parameters of EQRM; the defaults are DomainBed's."""

    quantile: float = 0.75
    """α: the domains' risk is to be below the loss with this probability."""
    burn_in: float = 0.5
    """Part of the steps, at the start, that minimise the mean risk; from 1 on: all steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("burn_in")
        if not 0 < self.quantile < 1:
            raise ScmdError(f"quantile = {self.quantile}: give a number between 0 and 1")

    def phases(self) -> tuple[float, ...]:
        """The end of the burn-in."""
        return (self.burn_in,) if 0 < self.burn_in < 1 else ()


class EQRM(Method):
    """The mean of the sources' risks in the burn-in, and then the α-quantile of their estimate."""

    Config = EQRMConfig
    config: EQRMConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "quantile": Uniform(0.5, 0.99),
        "burn_in": LogUniform(10**2.5 / 5000, 10**3.5 / 5000),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """Mean or quantile of the risks."""
        losses = sample_cross_entropy(self.predict(as_float(batch.images)), batch.labels)
        risks = domain_risks(losses, batch.domains)
        ce = risks.mean()
        quantile = kernel_quantile(risks, self.config.quantile)
        loss = ce if progress < self.config.burn_in else quantile
        return {"loss": loss, "ce": ce.detach(), "quantile": quantile.detach()}


def kernel_quantile(risks: Tensor, level: float) -> Tensor:
    """The quantile of the risks' kernel density estimate, a scalar, float32.

    It solves mean_d Φ((q - r_d) / h) = α. Its gradient is that of the implicit function. The width
    is h = 1.06 σ D^(-1/5), with σ the standard deviation (over D - 1).

    Args:
        risks: r, [D] with D ≥ 2.
        level: α, between 0 and 1.
    """
    values = risks.double()  # the widths of nearly equal risks are lost in float32
    width = 1.06 * len(values) ** -0.2 * (values.var() + TINY).sqrt()
    with torch.no_grad():
        # All kernels' quantiles lie between those of the outermost.
        offset = width * math.sqrt(2) * torch.erfinv(values.new_tensor(2 * level - 1))
        low, high = values.min() + offset, values.max() + offset
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = torch.special.ndtr((middle - values) / width).mean() < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        found = (low + high) / 2
        density = (-((found - values) / width).square() / 2).exp().mean() / width
        density = density / math.sqrt(2 * math.pi)
    missing = torch.special.ndtr((found - values) / width).mean() - level
    # A step of Newton's, whose gradient is that of the implicit function.
    return (found - missing / density).float()
