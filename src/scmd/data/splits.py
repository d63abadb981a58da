"""DomainBed's holdout split, bit for bit.

Source: ``domainbed/scripts/train.py`` and ``domainbed/lib/misc.py`` (facebookresearch/DomainBed).
"""

from __future__ import annotations

import hashlib

import numpy as np

from scmd.data.folder import DomainImages


def domainbed_seed(trial_seed: int, domain_index: int) -> int:
    """DomainBed's ``seed_hash(trial_seed, domain_index)``, from 0 to 2**31 - 1."""
    key = str((trial_seed, domain_index)).encode()
    return int(hashlib.md5(key, usedforsecurity=False).hexdigest(), 16) % 2**31


def holdout_keys(n: int, fraction: float, seed: int) -> np.ndarray:
    """Positions, among the ``n`` samples of a domain, of its holdout: int64 [int(fraction * n)]."""
    keys = np.arange(n)  # shuffled as the list is, and faster
    np.random.RandomState(seed).shuffle(keys)
    return keys[: int(n * fraction)]


def holdout_mask(data: DomainImages, fraction: float, trial_seed: int) -> np.ndarray:
    """Which samples are held out, over all domains of ``data``: bool [N].

    A domain's seed depends on its place among all sorted domains, a target included.
    """
    mask = np.zeros(len(data), dtype=bool)
    for index, domain in enumerate(data.domains):
        rows = data.rows(domain)
        keys = holdout_keys(len(rows), fraction, domainbed_seed(trial_seed, index))
        mask[rows[keys]] = True
    return mask
