"""A teacher that is set right by the label, where it is wrong on a source's image.

Source: Wen, Lai and Qian, "Preparing Lessons: Improve Knowledge Distillation with Better
Supervision", Neurocomputing 454, 2021, arXiv:1911.07471, probability shift.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scmd.data.loader import Batch
from scmd.methods.base import Output
from scmd.methods.scmd import SCMD


class Corrected(SCMD):
    """SCMD with the largest of the teacher's logits at the label, exchanged with what was there."""

    def forward(self, batch: Batch, progress: float) -> Output:
        """SCMD's."""
        self._batch = batch
        return super().forward(batch, progress)

    @torch.no_grad()
    def _opinion(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        places = (sample_ids[:, None] == self._batch.teacher_ids[None]).int().argmax(1)
        return shifted(super()._opinion(images, sample_ids), self._batch.labels[places])


def shifted(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, C] in which the label's and the largest have changed places."""
    rows = torch.arange(len(logits), device=logits.device)
    best = logits.argmax(-1)
    right = logits.clone()
    right[rows, labels], right[rows, best] = logits[rows, best], logits[rows, labels]
    return right
