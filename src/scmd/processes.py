"""A batch that several processes share: what each of them has, put together again.

``DomainBatches`` deals the slots of every domain out in turn, so slot i of process p of N is slot
i N + p of the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def number() -> int:
    """How many processes share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def whole_batch(share: Tensor) -> Tensor:
    """Values of the whole batch, in its order.

    Args:
        share: This process's, [B / N]; without gradients.

    Returns:
        [B], the same in every process.
    """
    if number() == 1:
        return share
    shares = [torch.empty_like(share) for _ in range(number())]
    dist.all_gather(shares, share.contiguous())
    return torch.stack(shares, 1).flatten()


def own_share(whole: Tensor) -> Tensor:
    """What ``whole_batch`` had from this process: [B] to [B / N]."""
    if number() == 1:
        return whole
    return whole.view(-1, number())[:, dist.get_rank()]


def as_first(values: Tensor) -> Tensor:
    """What the first process has, in every process."""
    if number() > 1:
        dist.broadcast(values, 0)
    return values
