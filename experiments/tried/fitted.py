"""The teacher's own temperature, fitted on the sources while the student trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scmd.data.loader import Batch
from scmd.methods.base import Output
from scmd.methods.scmd import SCMD, SCMDConfig
from scmd.models.images import as_float
from scmd.models.teacher import Teacher


class Fitted(SCMD):
    """SCMD with teacher's logits over T, where T is what makes the labels likeliest.

    ln T starts at 0 and follows the gradient of the cross-entropy of the whole batch's labels under
    the teacher's softmax; no other loss reaches it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: SCMDConfig | None = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__(backbone, teacher, config, num_classes, num_domains)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch, progress: float) -> Output:
        """SCMD's loss and the temperature's own."""
        output = dict(super().forward(batch, progress))
        with torch.no_grad():
            raw = super()._opinion(as_float(batch.images), batch.teacher_ids)
        fit = F.cross_entropy(raw / self.log_temperature.exp(), batch.labels)
        output["loss"] = output["loss"] + fit  # type: ignore[operator]
        return output | {"teacher_temperature": self.log_temperature.exp().detach()}

    @torch.no_grad()
    def _opinion(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        return super()._opinion(images, sample_ids) / self.log_temperature.exp()
