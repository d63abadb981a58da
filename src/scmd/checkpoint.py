"""The last two states of a run, each with its checksum, to resume from."""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from scmd.errors import ScmdError, ScmdWarning
from scmd.files import remove_asides, writing_aside

KEPT = 2
_NAME = re.compile(r"step-(\d{8})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Save what resuming needs after ``step`` steps, and drop all but this and the one before.

    Beside ``step-N.pt`` lies ``step-N.sha256``, as ``sha256sum`` writes and checks it. It gets its
    place first, so that there never is a checkpoint without it.

    Raises:
        ScmdError: It cannot be written; the ones before are kept.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    with writing_aside(path) as file:
        digesting = _Digesting(file)
        torch.save(state, cast(BinaryIO, digesting))
        with writing_aside(_checksum(path)) as checksum:
            checksum.write(f"{digesting.digest.hexdigest()}  {path.name}\n".encode())
    remove_asides(folder)
    kept = [old for old in _checkpoints(folder) if old <= path][-KEPT:]
    for old in folder.glob("step-*"):
        if old.with_suffix(".pt") not in kept:
            old.unlink()


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest sound checkpoint, or None where there is none. Tensors and plain values only.

    Warns:
        ScmdWarning: A newer one is damaged.

    Raises:
        ScmdError: All that there are are damaged.
    """
    damaged: list[Path] = []
    for path in reversed(_checkpoints(folder)):
        state = _load(path)
        if state is not None:
            if damaged:
                warnings.warn(
                    f"checkpoint {damaged[0]} is damaged: going on from {path.name}",
                    ScmdWarning,
                    stacklevel=2,
                )
            return state
        damaged.append(path)
    if damaged:
        raise ScmdError(
            f"checkpoint {damaged[0]} is damaged, and there is no sound one before it. "
            "Remove the run's folder and start anew"
        )
    return None


def _load(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None if it is not what was saved."""
    try:
        said = _checksum(path).read_text(encoding="ascii").split()[0]
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != said:
                return None
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises all sorts on damaged files
        return None


class _Digesting:
    """A file to write to that knows the digest of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name))
