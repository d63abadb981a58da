"""What is refused before the work, not after it."""

from __future__ import annotations

import os
from pathlib import Path

from scmd.errors import ScmdError
from scmd.limits import MOST_WORKERS, require_whole


def check_writable(file: Path | None) -> None:
    """Raises ScmdError where a file could not be written."""
    if file is None:
        return
    if not file.parent.is_dir():
        raise ScmdError(f"{file} cannot be written: there is no folder {file.parent}. Make it")
    if file.is_dir():
        raise ScmdError(f"{file} cannot be written: it is a folder. Name a file in it")
    if file.exists() and not file.is_file():
        raise ScmdError(f"{file} cannot be written: it is no regular file. Name another")
    if not os.access(file.parent, os.W_OK):
        raise ScmdError(
            f"{file} cannot be written: {file.parent} is not for you to write to. Choose another"
        )


def check_workers(workers: int) -> None:
    """Raises ScmdError where that is no number of workers."""
    require_whole("workers", workers, 0, MOST_WORKERS)
