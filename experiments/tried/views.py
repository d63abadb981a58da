"""A teacher that is asked about several shifted copies of each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scmd.methods.scmd import SCMD, SCMDConfig
from scmd.models.teacher import CLIPTeacher


@dataclass(frozen=True)
class ViewsConfig(SCMDConfig):
    """Of ``Views``."""

    shift: float = 1 / 16
    """Of an image's side: the other views are moved so far to the four sides."""


class Views(SCMD):
    """SCMD whose teacher's embedding is the mean of an image's and four shifted ones'."""

    Config = ViewsConfig
    config: ViewsConfig  # type: ignore[assignment]

    @torch.no_grad()
    def _opinion(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        teacher = self.teacher
        assert isinstance(teacher, CLIPTeacher)
        pixels = max(1, round(self.config.shift * images.shape[-1]))
        padded = F.pad(images, (pixels,) * 4, mode="replicate")
        height, width = images.shape[-2:]
        places = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
        views = [
            padded[..., y * pixels : y * pixels + height, x * pixels : x * pixels + width]
            for y, x in places
        ]
        seen = [teacher.embeddings(view) for view in views]
        return teacher.opinion(F.normalize(torch.stack(seen).mean(0), dim=-1))
