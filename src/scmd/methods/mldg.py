"""MLDG: a step on one source that has to help on another.

Source: Li, Yang, Song and Hospedales, "Learning to Generalize: Meta-Learning for Domain
Generalization", AAAI 2018, arXiv:1710.03463, algorithm 1, to first order. Every source is once the
meta-train domain and once the meta-test domain of a step, as in DomainBed before it split the
sources of a step into the two (its n_meta_test). The inner step is the paper's, plain gradient
descent; DomainBed's is the first step of an Adam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from scmd.data.loader import Batch
from scmd.losses import classification
from scmd.methods.base import Method, MethodConfig, Output
from scmd.methods.per_domain import random_pairs, rows_by_domain
from scmd.methods.search import LogUniform, SearchSpace
from scmd.models.images import as_float


@dataclass(frozen=True)
class MLDGConfig(MethodConfig):
    """Hyper-parameters of MLDG."""

    meta_weight: float = 1.0
    """β, weight of the meta-test risk; the default is DomainBed's."""
    inner_lr: float = 0.01
    """α, length of the inner step; ours (the paper's code, on fixed features: 0.5)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("meta_weight", "inner_lr")


class MLDG(Method):
    """The mean over pairs (i, j) of sources of risk_i(θ) + β risk_j(θ - α ∇risk_i(θ)).

    ∇risk_i is a constant, so that the loss has the gradient ∇risk_i(θ) + β ∇risk_j(θ'), taken at
    θ' and applied at θ. A step costs about three of ERM's, and the memory of two.
    """

    Config = MLDGConfig
    config: MLDGConfig
    needs_teacher = False
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "meta_weight": LogUniform(0.1, 10),
        "inner_lr": LogUniform(1e-3, 0.1),
    }

    def forward(self, batch: Batch, progress: float) -> Output:
        """Mean meta-train risk + β · mean meta-test risk."""
        images, labels = as_float(batch.images), batch.labels
        rows = rows_by_domain(batch.domains)
        train_risks, test_risks = [], []
        for i, j in random_pairs(len(rows)):
            train_risk = classification(self.predict(images[rows[i]]), labels[rows[i]])
            logits = self.predict_after_step(images[rows[j]], train_risk)
            train_risks.append(train_risk)
            test_risks.append(classification(logits, labels[rows[j]]))
        ce, meta = torch.stack(train_risks).mean(), torch.stack(test_risks).mean()
        loss = ce + self.config.meta_weight * meta
        return {"loss": loss, "ce": ce.detach(), "meta": meta.detach()}

    def predict_after_step(self, images: Tensor, risk: Tensor) -> Tensor:
        """Logits [B, C] at θ' = θ - α ∇risk(θ), whose gradient for θ is that for θ'.

        Args:
            images: Float images in [0, 1], [B, 3, H, W].
            risk: A scalar that depends on backbone and classifier.
        """
        parts: list[nn.Module] = [self.backbone, self.classifier]
        named = [[(n, p) for n, p in m.named_parameters() if p.requires_grad] for m in parts]
        parameters = [parameter for part in named for _, parameter in part]
        gradients = iter(
            torch.autograd.grad(risk, parameters, retain_graph=True, materialize_grads=True)
        )
        outputs = images
        for module, part in zip(parts, named, strict=True):
            stepped = {name: p - self.config.inner_lr * next(gradients) for name, p in part}
            outputs = functional_call(module, stepped, (outputs,))
        return outputs
