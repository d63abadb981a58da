"""A tenth of the training labels flipped, and what might be done about it.

A mislabelled sample is always hard, so that selection should find it. Labels are flipped as the
method meets them: split, batches and first weights are those of the run with right labels, and the
sources' holdout, which chooses the weights, keeps its right labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scmd.data.loader import Batch
from scmd.methods import ERM, KD, SCMD
from scmd.methods.base import Method, Output
from scmd.methods.scmd import SCMDConfig
from scmd.models.images import as_float
from scmd.seeds import derive

ONE_IN = 10
"""One of so many labels is wrong."""


def flipped(sample_ids: Tensor) -> Tensor:
    """Which samples have a wrong label: bool [B]. It is the same in every run.

    Args:
        sample_ids: int64 [B].
    """
    wrong = [derive("flips", int(i)) % ONE_IN == 0 for i in sample_ids]
    return torch.tensor(wrong, device=sample_ids.device)


def wrong_labels(labels: Tensor, sample_ids: Tensor, num_classes: int) -> Tensor:
    """Labels of which some are another class's, each other class as likely: int64 [B]."""
    shifts = [1 + derive("flips to", int(i)) % (num_classes - 1) for i in sample_ids]
    other = (labels + torch.tensor(shifts, device=labels.device)) % num_classes
    return torch.where(flipped(sample_ids), other, labels)


class Flipped(Method):
    """Mixed into a method: it is trained with some labels flipped."""

    def forward(self, batch: Batch, progress: float) -> Output:
        """The method's own, of wrong labels."""
        labels = wrong_labels(batch.labels, batch.sample_ids, self.num_classes)
        return super().forward(batch._replace(labels=labels), progress)


class FlippedERM(Flipped, ERM):
    """ERM."""


class FlippedKD(Flipped, KD):
    """KD."""


class FlippedSCMD(Flipped, SCMD):
    """SCMD, which does not know of it."""


@dataclass(frozen=True)
class CappedConfig(SCMDConfig):
    """Of ``Capped``."""

    cap: float = 2.0
    """Losses above so many times ln C, the loss of a network that finds all classes equally
    likely, are not selected."""


class Capped(FlippedSCMD):
    """Selects the hardest of those samples that are not too hard."""

    Config = CappedConfig
    config: CappedConfig  # type: ignore[assignment]

    def selection_losses(
        self, images: Tensor, labels: Tensor, teacher_logits: Tensor | None = None
    ) -> Tensor:
        """Cross-entropies; below all others where they are above the cap."""
        losses = super().selection_losses(images, labels, teacher_logits)
        too_hard = losses > self.config.cap * math.log(self.num_classes)
        return torch.where(too_hard, -losses, losses)


class Agreed(FlippedSCMD):
    """Selects the hardest of those samples whose label is what the teacher says."""

    def selection_losses(
        self, images: Tensor, labels: Tensor, teacher_logits: Tensor | None = None
    ) -> Tensor:
        """Cross-entropies; below all others where the teacher says something else."""
        losses = super().selection_losses(images, labels, teacher_logits)
        with torch.no_grad():
            says = self.teacher.logits(images, torch.zeros_like(labels)).argmax(-1)
        return torch.where(says == labels, losses, -losses)


class Trusting(FlippedSCMD):
    """Trains in every step, and so selects, by the teacher's class where it is another."""

    def forward(self, batch: Batch, progress: float) -> Output:
        """SCMD's, with the teacher's classes for labels where it is sure (p above 0.9)."""
        labels = wrong_labels(batch.labels, batch.sample_ids, self.num_classes)
        with torch.no_grad():
            opinion = self.teacher.logits(as_float(batch.images), batch.teacher_ids).softmax(-1)
        sure, says = opinion.max(-1)
        labels = torch.where(sure > 0.9, says, labels)
        return SCMD.forward(self, batch._replace(labels=labels), progress)
