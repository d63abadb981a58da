"""The last two states of a run, to resume from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from scmd.errors import ScmdError
from scmd.files import writing_aside

KEPT = 2
_NAME = re.compile(r"step-(\d{8})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Save what resuming needs after ``step`` steps, and drop all but the last two."""
    folder.mkdir(exist_ok=True)
    with writing_aside(folder / f"step-{step:08d}.pt") as file:
        torch.save(state, file)
    for path in [*_checkpoints(folder)[:-KEPT], *folder.glob(".step-*")]:
        path.unlink()  # the latter are what a kill leaves of an unfinished one


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint, or None where there is none. Tensors and plain values only.

    Raises:
        ScmdError: It is damaged.
    """
    paths = _checkpoints(folder)
    if not paths:
        return None
    try:
        return torch.load(paths[-1], map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises all sorts on damaged files
        others = "Remove it to resume from the one before" if len(paths) > 1 else "Start anew"
        raise ScmdError(f"checkpoint {paths[-1]} is damaged. {others}") from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name))
