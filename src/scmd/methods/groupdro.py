"""GroupDRO: the sources weighted by how badly they are fitted.

Source: Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group
Shifts", ICLR 2020, arXiv:1911.08731, algorithm 1; a group is a source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from scmd.data.loader import Batch
from scmd.losses import sample_cross_entropy
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.per_domain import domain_risks, require_domains
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float
from scmd.models.teacher import Teacher


@dataclass(frozen=True)
class GroupDROConfig(MethodConfig):
    """Hyper-parameters of GroupDRO; the defaults are DomainBed's."""

    eta: float = 0.01
    """η, step size of the sources' weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("eta")


class GroupDRO(Method):
    """Σ_d q_d · risk_d, where q_d ← q_d exp(η · risk_d) / Σ in every step before that.

    ``q`` [D] is a buffer, equal weights at first. ``forward`` works with the new weights and
    ``after_step`` keeps them, so that a forward that no step follows changes nothing. With several
    processes, each looks at its own share of a batch, and the first one's weights count.
    """

    Config = GroupDROConfig
    config: GroupDROConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {**Method.search_space, "eta": LogUniform(1e-3, 0.1)}
    q: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: GroupDROConfig | None = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__(backbone, teacher, config, num_classes, num_domains)
        self.register_buffer("q", torch.full((self.num_domains,), 1 / self.num_domains))
        self._next_q: Tensor | None = None

    def forward(self, batch: Batch, progress: float) -> Output:
        """Σ_d q_d · risk_d with this step's q."""
        losses = sample_cross_entropy(self.predict(as_float(batch.images)), batch.labels)
        risks = domain_risks(losses, batch.domains)
        require_domains(len(risks), self.num_domains)
        q = self.q * (self.config.eta * risks.detach()).exp()
        self._next_q = q / q.sum()
        loss = (self._next_q * risks).sum()
        return {
            "loss": loss,
            "ce": losses.detach().mean(),
            "worst": risks.detach().max(),
            "largest_q": self._next_q.max(),
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the step's q."""
        if self._next_q is not None:
            self.q.copy_(self._next_q)
            self._next_q = None
