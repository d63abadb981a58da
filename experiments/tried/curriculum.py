"""ρ falls over the run, from the whole batch to the fraction that is asked for."""

from __future__ import annotations

from dataclasses import replace

from scmd.data.loader import Batch
from scmd.methods.base import Output
from scmd.methods.scmd import SCMD
from scmd.selection import SelectionConfig


class Curriculum(SCMD):
    """SCMD whose ρ falls linearly from 1, at the end of the warm-up, to ``selection.fraction``.

    It is there when the last fraction of the steps, on the whole batch, begins.
    """

    def forward(self, batch: Batch, progress: float) -> Output:
        """SCMD's, with the ρ of this step."""
        asked = self.config
        selection = replace(asked.selection, fraction=fraction_at(progress, asked.selection))
        self.config = replace(asked, selection=selection)
        try:
            return super().forward(batch, progress)
        finally:
            self.config = asked


def fraction_at(progress: float, selection: SelectionConfig) -> float:
    """ρ at a part of the steps."""
    length = 1 - selection.last_fraction - selection.warmup
    if length <= 0:
        return 1.0
    passed = min(max((progress - selection.warmup) / length, 0.0), 1.0)
    return 1 - passed * (1 - selection.fraction)
