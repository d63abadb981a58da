"""Losses that nobody has looked at yet, since looking waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from scmd.errors import ScmdError

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
    """Remembers the losses of steps until they are checked, all at once."""

    def __init__(self) -> None:
        self._unchecked: list[_Step] = []

    def add(self, step: int, sample_ids: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Remember a step.

        Args:
            step: Its number.
            sample_ids: int64 [B].
            parts: Scalars, among them ``loss``; they may be on a device that is not done yet.
        """
        self._unchecked.append(_Step(step, sample_ids, parts))

    def check(self, mean: Callable[[Tensor], Tensor] = lambda losses: losses) -> None:
        """Look at them, and forget them.

        Args:
            mean: Over the processes, so that all of them find the same; given float32 [steps].

        Raises:
            NotFiniteError: The first loss that is not finite.
        """
        if not self._unchecked:
            return
        losses = mean(torch.stack([taken.parts["loss"].float() for taken in self._unchecked]))
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            step, ids, parts = self._unchecked[int(bad[0])]
            numbers = {name: float(value) for name, value in parts.items()}
            raise NotFiniteError(step, numbers, ids.tolist())
        self._unchecked.clear()
