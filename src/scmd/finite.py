"""Losses that nobody has looked at yet, since looking waits for the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from scmd.errors import ScmdError
from scmd.files import write_json

SHOWN = 5
"""Sample ids in the message; the error has them all."""


class NotFiniteError(ScmdError):
    """A loss is NaN or infinite.

    Args:
        step: Whose loss it is.
        parts: The loss and its parts.
        sample_ids: Of the batch.
    """

    def __init__(self, step: int, parts: Mapping[str, float], sample_ids: list[int]) -> None:
        self.step, self.parts, self.sample_ids = step, dict(parts), sample_ids
        said = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
        ids = ", ".join(map(str, sample_ids[:SHOWN]))
        more = f" and {len(sample_ids) - SHOWN} more" if len(sample_ids) > SHOWN else ""
        super().__init__(
            f"step {step}: the loss is {parts['loss']} ({said}; samples {ids}{more}). Lower --lr; "
            "the last checkpoint is kept"
        )


class _Step(NamedTuple):
    step: int
    sample_ids: Tensor
    parts: Mapping[str, Tensor]


class Losses:
    """Remembers the losses of steps until they are checked, all at once.

    Args:
        accelerator: Whose processes share the batches; None: this one is alone.
        about: Where the first process describes a loss that is not finite; None: nowhere.
    """

    def __init__(self, accelerator: Accelerator | None = None, about: Path | None = None) -> None:
        self._accelerator, self._about = accelerator, about
        self._unchecked: list[_Step] = []

    def add(self, step: int, sample_ids: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Remember a step.

        Args:
            step: Its number.
            sample_ids: int64 [B].
            parts: Scalars, among them ``loss``; they may be on a device that is not done yet.
        """
        self._unchecked.append(_Step(step, sample_ids, parts))

    def check(self) -> None:
        """Look at them, and forget them. All processes look at the mean, so that they find alike.

        Raises:
            NotFiniteError: The first loss that is not finite.
        """
        if not self._unchecked:
            return
        losses = torch.stack([taken.parts["loss"].float() for taken in self._unchecked])
        if self._accelerator:
            losses = cast(Tensor, self._accelerator.reduce(losses, "mean"))
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            error = self._of_the_process_at_fault(self._unchecked[int(bad[0])])
            if self._about and (self._accelerator is None or self._accelerator.is_main_process):
                found = {"step": error.step, "parts": error.parts, "sample_ids": error.sample_ids}
                write_json(self._about, found)
            raise error
        self._unchecked.clear()

    def _of_the_process_at_fault(self, taken: _Step) -> NotFiniteError:
        """All stop at the mean of their losses; what is said is of the one that spoilt it."""
        own = (
            {name: float(value) for name, value in taken.parts.items()},
            taken.sample_ids.tolist(),
        )
        if self._accelerator is None or self._accelerator.num_processes == 1:
            return NotFiniteError(taken.step, *own)
        found = gather_object([own])
        bad = [(parts, ids) for parts, ids in found if not math.isfinite(parts["loss"])]
        return NotFiniteError(taken.step, *(bad[0] if bad else own))
