"""Mixtures: an image keeps the larger part and its label, and all is drawn from the one seed."""

from __future__ import annotations

import torch

from scmd.data.loader import Batch
from scmd.data.mixtures import mixed


def batch_of(count: int = 64) -> Batch:
    """Image i is all i / count, so that a mixture tells its parts."""
    values = torch.arange(count) / count
    images = values.view(-1, 1, 1, 1).expand(count, 3, 2, 2).contiguous()
    return Batch(images, *(torch.arange(count) + start for start in (0, 100, 200, 300)))


def test_an_image_keeps_at_least_half_and_all_that_is_said_of_it():
    batch = batch_of()
    torch.manual_seed(0)
    made = mixed(batch)
    assert all(torch.equal(x, y) for x, y in zip(made[1:], batch[1:], strict=True))
    torch.manual_seed(0)
    others = batch.images[torch.randperm(64)]
    moved = (made.images - batch.images)[:, 0, 0, 0]
    whole = (others - batch.images)[:, 0, 0, 0]
    share = moved[whole != 0] / whole[whole != 0]
    assert (share >= -1e-5).all()
    assert (share <= 0.5 + 1e-5).all()
    assert 0.2 < share.mean() < 0.3
    assert share.unique().numel() > 50


def test_the_seed_decides():
    batch = batch_of()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(mixed(batch).images)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
