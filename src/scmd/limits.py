"""How large a setting may be: as the files of a run have room for, and a machine can begin with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from scmd.errors import ScmdError

MOST_STEPS = 99_999_999
"""The names of checkpoints have eight digits."""
MOST_SEED = 2**31 - 1
MOST_PIXELS = 8192
MOST_IMAGES = 100_000
"""Of a domain, in a step."""
MOST_WORKERS = 1024


def require_whole(name: str, value: int, least: int, most: int) -> None:
    """Raise a ScmdError unless a setting is from ``least`` to ``most``."""
    if not least <= value <= most:
        raise ScmdError(f"{name} = {value}: give a whole number from {least} to {most}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The way out where a name is unknown: the nearest one, or all that there are."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Choose from {', '.join(known)}"
