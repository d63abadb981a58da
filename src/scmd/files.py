"""Reading and writing so that nothing is lost or half-written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from scmd.errors import ScmdError


@contextmanager
def writing_aside(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside its place, flush it to the disk, and only then rename it.

    Raises:
        ScmdError: The folder cannot be written or the disk is full; what was there before stays.
    """
    aside: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        aside = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ScmdError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, aside and renamed."""
    with writing_aside(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        ScmdError: It is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScmdError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ScmdError(f"{path} is damaged: {error}") from error
