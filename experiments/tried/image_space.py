"""A term towards the teacher's image embedding, beside L_CM towards its texts.

After VL2V-ADiP (Addepalli et al., "Leveraging Vision-Language Models for Improving Domain
Generalization in Image Classification", CVPR 2024, arXiv:2310.08255), which distils in both spaces.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scmd.data.loader import Batch
from scmd.losses_distillation import hint
from scmd.methods.base import Output
from scmd.methods.scmd import SCMD, SCMDConfig
from scmd.models.images import as_float


@dataclass(frozen=True)
class ImageSpaceConfig(SCMDConfig):
    """Of ``ImageSpace``."""

    lambda3: float = 1.0
    """Weight of ‖P f(x)/‖P f(x)‖ − φ_img(x)‖²."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("lambda3")


class ImageSpace(SCMD):
    """SCMD, and the projected features of what is kept go to the teacher's image embeddings."""

    Config = ImageSpaceConfig
    config: ImageSpaceConfig  # type: ignore[assignment]

    def forward(self, batch: Batch, progress: float) -> Output:
        """SCMD's loss and the new term."""
        seen: list[Tensor] = []
        listening = self.projection.register_forward_hook(lambda *call: seen.append(call[2]))
        try:
            output = dict(super().forward(batch, progress))
        finally:
            listening.remove()
        kept = output["decisions"].kept  # type: ignore[union-attr]
        images, ids = as_float(batch.images)[kept], batch.teacher_ids[kept]
        with torch.no_grad():
            embeddings = self.teacher_embeddings(images, ids)
        hinted = hint(seen[0], embeddings)
        output["loss"] = output["loss"] + self.config.lambda3 * hinted  # type: ignore[operator]
        return output | {"hint": hinted.detach()}
