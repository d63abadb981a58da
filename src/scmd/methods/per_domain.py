"""What the methods share that tell the sources of a batch apart.

D is the number of sources. The risk of a domain is the mean of the losses of its images. Batches
hold as many images of every source, so that the mean of the D risks is the batch's mean loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scmd.errors import ScmdError
from scmd.methods.base import MethodConfig


def rows_by_domain(domains: Tensor, images: int = 1) -> tuple[Tensor, ...]:
    """The rows of a batch that belong to each domain, in the order of the domains.

    Args:
        domains: The domain of every image, int64 [B].
        images: How many images of every domain there have to be.

    Returns:
        D tensors, int64 [B/D]; a domain's rows are in the order of the batch.

    Raises:
        ScmdError: The batch is of a single domain, or has fewer images of one.
    """
    counts = domains.unique(return_counts=True)[1].tolist()
    if len(counts) < 2:
        raise ScmdError(
            "the batch is of a single domain, and this method compares domains. Add a source, or "
            "use --method erm"
        )
    if min(counts) < images:
        raise ScmdError(
            f"the batch has {min(counts)} image of a domain, and this method needs {images}. "
            "Raise --batch-per-domain"
        )
    return domains.argsort(stable=True).split(counts)


def domain_risks(losses: Tensor, domains: Tensor) -> Tensor:
    """The risk of every domain of a batch, [D].

    Args:
        losses: Per image, [B].
        domains: int64 [B].
    """
    return torch.stack([losses[rows].mean() for rows in rows_by_domain(domains)])


def require_domains(found: int, expected: int) -> None:
    """Raise a ScmdError unless a batch has as many domains as the method was built for."""
    if found != expected:
        raise ScmdError(
            f"the batch is of {found} domains, the method was built for {expected}. Give it "
            "images of every source in every step"
        )


def random_pairs(number: int) -> list[tuple[int, int]]:
    """D pairs of domains, a ring in random order: each is once the first and once the second.

    So DomainBed pairs its minibatches. Draws from torch's global generator.
    """
    order = torch.randperm(number).tolist()
    return [(order[i], order[(i + 1) % number]) for i in range(number)]


@dataclass(frozen=True)
class AnnealedPenaltyConfig(MethodConfig):
    """Hyper-parameters of a penalty whose weight is 1 at first, as in DomainBed."""

    penalty_weight: float = 1.0
    """λ, weight of the penalty, from the end of the annealing on."""
    anneal: float = 0.1
    """Part of the steps, at the start, in which that weight is 1; from 1 on: all steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("penalty_weight", "anneal")

    def phases(self) -> tuple[float, ...]:
        """The end of the annealing."""
        return (self.anneal,) if 0 < self.anneal < 1 else ()

    def weight(self, progress: float) -> float:
        """The weight of the penalty, where ``progress`` is the step, from 0, over the steps."""
        return self.penalty_weight if progress >= self.anneal else 1.0
