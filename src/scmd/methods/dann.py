"""DANN: features from which the source cannot be told.

Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 2016, arXiv:1505.07818,
with a gradient reversal layer and, as in DomainBed (Gulrajani and Lopez-Paz, ICLR 2021,
arXiv:2007.01434), a constant λ and a gradient penalty on the discriminator where wanted. DomainBed
takes turns instead, with an Adam of β₁ = 0.5 for each side; here both sides learn in every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.limits import require_whole
from scmd.losses import classification
from scmd.methods.base import MOST_UNITS, Method, MethodConfig, Output, linear
from scmd.methods.search import Choice, LogUniform, SearchSpace
from scmd.models.images import as_float
from scmd.models.teacher import Teacher

MOST_LAYERS = 32


@dataclass(frozen=True)
class DANNConfig(MethodConfig):
    """Hyper-parameters of DANN; the defaults are DomainBed's."""

    reversal: float = 1.0
    """λ, by whose negative the gradient from the discriminator to the backbone is multiplied."""
    lr_discriminator: float = 5e-5
    """Learning rate of the discriminator."""
    gradient_penalty: float = 0.0
    """Weight of the squared gradient of the discriminator's loss for its input."""
    width: int = 256
    """Units of each hidden layer of the discriminator."""
    depth: int = 3
    """Linear layers of the discriminator."""
    dropout: float = 0.0
    """Of the discriminator's hidden units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("reversal", "gradient_penalty")
        self.require_positive("lr_discriminator")
        require_whole("width", self.width, 1, MOST_UNITS)
        require_whole("depth", self.depth, 2, MOST_LAYERS)
        if not 0 <= self.dropout < 1:
            raise ScmdError(f"dropout = {self.dropout}: give a number in [0, 1)")


class DANN(Method):
    """L_CE + L_domain, where the backbone sees -λ times the gradient of L_domain."""

    Config = DANNConfig
    config: DANNConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "reversal": LogUniform(0.01, 100),
        "lr_discriminator": LogUniform(1e-5, 10**-3.5),
        "gradient_penalty": LogUniform(0.01, 10),
        "width": Choice((64, 128, 256, 512, 1024)),
        "depth": Choice((3, 4, 5)),
        "dropout": Choice((0.0, 0.1, 0.5)),
    }

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: DANNConfig | None = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__(backbone, teacher, config, num_classes, num_domains)
        if self.num_domains < 2:
            raise ScmdError(
                "there is a single source, and DANN tells sources apart. Add a source, or use "
                "--method erm"
            )
        self.discriminator = discriminator(backbone, self.num_domains, self.config)

    def forward(self, batch: Batch, progress: float) -> Output:
        """L_CE + L_domain."""
        features = self.backbone(as_float(batch.images))
        ce = classification(self.classifier(features), batch.labels)
        reversed_features = reverse_gradient(features, self.config.reversal)
        domain = classification(self.discriminator(reversed_features), batch.domains)
        loss = ce + domain
        if self.config.gradient_penalty:
            # The mean over the batch, so that its gradients are 1/B of the samples' own.
            (gradients,) = torch.autograd.grad(domain, reversed_features, create_graph=True)
            squares = (gradients.float() * len(gradients)).square().sum(1)
            loss = loss + self.config.gradient_penalty * squares.mean()
        return {"loss": loss, "ce": ce.detach(), "domain": domain.detach()}

    def param_groups(self) -> list[dict[str, Any]]:
        """The discriminator has a learning rate of its own."""
        return self.groups_apart("discriminator.", self.config.lr_discriminator)


def discriminator(backbone: nn.Module, num_domains: int, config: DANNConfig) -> nn.Sequential:
    """An MLP from a backbone's features [B, F] to logits of the sources [B, D]."""
    layers: list[nn.Module] = [linear(backbone, config.width)]
    for _ in range(config.depth - 2):
        layers += [nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.width, config.width)]
    layers += [nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.width, num_domains)]
    return nn.Sequential(*layers)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -ctx.strength * gradients[0], None


def reverse_gradient(values: Tensor, strength: float) -> Tensor:
    """The values themselves; their gradient is multiplied by -strength (section 4.2)."""
    return _Reversal.apply(values, strength)  # type: ignore[return-value]
