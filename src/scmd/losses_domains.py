"""Distances between the features of groups of images: what methods of invariance make small.

A group is the images of a domain, or any part of a batch. n is the number of images of a group, F
of features. Each distance is a scalar, computed in float32 whatever its inputs are and wherever it
is called; it is a mean over the pairs of groups, and 0 where all groups have the same features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

KERNEL_RATES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""γ of the Gaussian kernels exp(-γ ‖x - y‖²) whose sum MMD uses in DomainBed."""


def coral_distance(groups: Sequence[Tensor]) -> Tensor:
    """The mean, over pairs of groups, of the mean squared differences of means and covariances.

    Source: Sun and Saenko, "Deep CORAL", ECCV 2016 workshops, arXiv:1607.01719, in the form of
    DomainBed; see ``methods/coral.py``.

    Args:
        groups: Per group its features, [n, F] with n ≥ 2; the covariance is over n - 1.
    """
    # Autocast would multiply the covariances in half precision.
    with torch.autocast(groups[0].device.type, enabled=False):
        moments = [(f.float().mean(0), f.float().T.cov()) for f in groups]
    distances = [
        (mean - other_mean).square().mean() + (covariance - other_covariance).square().mean()
        for (mean, covariance), (other_mean, other_covariance) in itertools.combinations(moments, 2)
    ]
    return torch.stack(distances).mean()


def mmd_distance(groups: Sequence[Tensor]) -> Tensor:
    """The mean, over pairs of groups, of the squared maximum mean discrepancy.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y), the biased estimate: from 0, and 0 for the same
    features. k is a sum of Gaussian kernels, ``KERNEL_RATES``.

    Source: Gretton et al., "A Kernel Two-Sample Test", JMLR 2012, equation 5.

    Args:
        groups: Per group its features, [n, F] with n ≥ 1.
    """
    groups = [group.float() for group in groups]
    own = [_kernel_mean(group, group) for group in groups]
    distances = [
        own[i] + own[j] - 2 * _kernel_mean(groups[i], groups[j])
        for i, j in itertools.combinations(range(len(groups)), 2)
    ]
    return torch.stack(distances).mean()


def _kernel_mean(x: Tensor, y: Tensor) -> Tensor:
    """The mean of k over all pairs of x [n, F] and y [m, F], a scalar."""
    # Not through a product of matrices: what cancels there is seen by the narrow kernels, and
    # autocast would round it.
    with torch.autocast(x.device.type, enabled=False):
        distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.stack([(-rate * distances).exp().mean() for rate in KERNEL_RATES]).sum()
