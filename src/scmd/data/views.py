"""Augmented views of training images that are the same ones in every run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scmd.seeds import derive


@dataclass(frozen=True, eq=False)
class FixedViews:
    """K views of every image; a step draws which of them it sees (Wu et al., arXiv:2207.10666).

    View v of an image is what the augmentation makes of it with a seed from the bytes of its file
    and v: the same one in every run, whatever its seed, and of every copy of the file. That seed
    is also the number by which a teacher remembers the view.
    """

    numbers: np.ndarray
    """Per sample, ``file_numbers`` of it, int64 [N]; those that are never drawn may be anything."""
    count: int
    """K."""

    @property
    def key(self) -> tuple[int, bytes]:
        """What the views depend on."""
        return self.count, self.numbers.tobytes()

    def seed(self, row: int, view: int) -> int:
        """Of a view of a sample, from 0 to K - 1."""
        return derive("view", int(self.numbers[row]), view)

    def drawn(self, seed: int, step: int, slot: int, row: int) -> int:
        """The seed of the view of a sample that a slot of a step is given, in a run of a seed."""
        return self.seed(row, derive("which view", seed, step, slot) % self.count)


class EachView(FixedViews):
    """The same views, one after the other: step v sees view v of whatever it is given."""

    def drawn(self, seed: int, step: int, slot: int, row: int) -> int:
        """See ``FixedViews.drawn``."""
        return self.seed(row, step)
