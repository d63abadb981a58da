"""What a setting may be: of its type, and as large as a run's files and a machine have room for."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scmd.errors import ScmdError

MOST_STEPS = 99_999_999
"""The names of checkpoints have eight digits."""
MOST_SEED = 2**31 - 1
MOST_PIXELS = 4096
"""Of the side of an image, in a run and in the files that describe a network."""
MOST_IMAGES = 100_000
"""Of a domain, in a step."""
MOST_WORKERS = 1024


def require_whole(name: str, value: int, least: int, most: int) -> None:
    """Raise a ScmdError unless a setting is a whole number from ``least`` to ``most``."""
    if type(value) is not int or not least <= value <= most:
        raise ScmdError(f"{name} = {value!r}: give a whole number from {least} to {most}")


def require_texts(name: str, value: Any) -> tuple[str, ...]:
    """A list or tuple of texts as a tuple, so that settings can be hashed; else a ScmdError."""
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ScmdError(f"{name} = {value!r}: give a list of texts")


def require_path(name: str, value: Any) -> Path | None:
    """A path, or a text that is one, or None as it is; else a ScmdError."""
    if value is None or isinstance(value, str | os.PathLike):
        return None if value is None else Path(value)
    raise ScmdError(f"{name} = {value!r}: give a path")


def nearest(name: str, known: Iterable[str]) -> str:
    """The way out where a name is unknown: the nearest one, or all that there are."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Choose from {', '.join(known)}"
