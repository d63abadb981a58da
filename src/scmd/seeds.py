"""Seeds derived from what they are for."""

from __future__ import annotations

import hashlib


def derive(*keys: int | str) -> int:
    """A seed from 0 to 2**63 - 1 that depends on all keys and on their order."""
    return int.from_bytes(hashlib.blake2b(repr(keys).encode(), digest_size=8).digest(), "big") >> 1
