"""How long the long tests are: short in ``make test``, long in ``make soak``."""

from __future__ import annotations

import os

SOAK = bool(os.environ.get("SCMD_SOAK"))


def cases(short: int, long: int) -> int:
    """How many cases a fuzzing test tries."""
    return long if SOAK else short
