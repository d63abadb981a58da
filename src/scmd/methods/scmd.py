"""Selective cross-modality distillation.

Source: Leng, Li and Wang, "Choosing Wisely and Learning Deeply: Selective Cross-Modality
Distillation via CLIP for Domain Generalization", TMLR 2024, arXiv:2311.15145.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from scmd import processes
from scmd.data.loader import Batch
from scmd.errors import ScmdError
from scmd.losses import (
    cross_modality_distillation,
    focal_classification,
    logit_distillation,
    sample_cross_entropy,
    sample_distillation,
)
from scmd.methods.base import Method, MethodConfig, Output, ProjectingMethod
from scmd.methods.search import Choice, SearchSpace, Uniform
from scmd.models.images import as_float
from scmd.models.student import evaluating
from scmd.models.teacher import Teacher
from scmd.selection import Decisions, SelectionConfig, phase, select_over_processes

LOG_SCALE_START = math.log(1 / 0.07)
LOG_SCALE_MAX = math.log(100)


@dataclass(frozen=True)
class SCMDConfig(MethodConfig):
    """Hyper-parameters of SCMD; the defaults are the paper's."""

    lambda1: float = 0.5
    """λ1, weight of L_logits."""
    lambda2: float = 0.5
    """λ2, weight of L_CM."""
    temperature: float = 3.0
    """τ."""
    lr_scale: float = 1e-4
    """Learning rate of γ, the logarithm of the cross-modality scale."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    focal_gamma: float = 0.0
    """γ of a focal loss in the place of L_CE; 0: plain cross-entropy. An ablation of selecting,
    with selection.rule all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_weight("lambda1", "lambda2", "focal_gamma")
        self.require_positive("temperature", "lr_scale")

    def phases(self) -> tuple[float, ...]:
        """The end of the warm-up and the beginning of the last fraction, where there are such."""
        if self.selection.rule == "all":
            return ()
        ends = (self.selection.warmup, 1 - self.selection.last_fraction)
        return tuple(end for end in ends if 0 < end < 1)


class SCMD(ProjectingMethod):
    """Select the hard samples; on those, L = L_CE + λ1 L_logits + λ2 L_CM.

    Its trained parts are ``backbone`` f, ``classifier`` h, ``projection`` P and ``log_scale`` γ.
    """

    Config = SCMDConfig
    config: SCMDConfig
    search_space: ClassVar[SearchSpace] = {
        **Method.search_space,
        "lambda1": Uniform(0.5, 1),
        "lambda2": Uniform(0.5, 1),
        "temperature": Uniform(2, 5),
        "selection.fraction": Choice((0.2, 0.25, 0.3)),
        "selection.last_fraction": Uniform(0.2, 0.4),
    }

    def __init__(
        self,
        backbone: nn.Module,
        teacher: Teacher | None,
        config: SCMDConfig | None = None,
        num_classes: int | None = None,
        num_domains: int | None = None,
    ) -> None:
        super().__init__(backbone, teacher, config, num_classes, num_domains)
        self.log_scale = nn.Parameter(torch.tensor(LOG_SCALE_START))
        if self.config.selection.resolution < 1:
            _check_reduced(backbone, self.config.selection.resolution)

    def forward(self, batch: Batch, progress: float) -> Output:
        """One step's loss on the samples that are kept, its parts, and the decisions.

        Raises:
            ScmdError: As ``trained_features``.
        """
        config = self.config
        images = as_float(batch.images)
        by_teacher = config.selection.rule == "kd-loss"
        losses = chosen = opinion = None
        if phase(progress, config.selection) == "select":
            if by_teacher:
                opinion = self._opinion(images, batch.teacher_ids)
            losses = self.selection_losses(images, batch.labels, opinion)
            chosen = select_over_processes(losses, batch.domains, config.selection)
        x, y, ids = (
            t if chosen is None else t[chosen.trained]
            for t in (images, batch.labels, batch.teacher_ids)
        )

        features = self.trained_features(x)
        student_logits = self.classifier(features)
        # What was asked for selecting is not asked again.
        teacher_logits = (
            opinion[chosen.trained]
            if chosen is not None and opinion is not None
            else self._opinion(x, ids)
        )
        ce = focal_classification(student_logits, y, config.focal_gamma)
        distilled = logit_distillation(teacher_logits, student_logits, config.temperature)
        aligned = cross_modality_distillation(
            teacher_logits,
            self.projection(features),
            self.teacher.text_embeddings,
            self.log_scale.exp(),
            config.temperature,
        )
        loss = ce + config.lambda1 * distilled + config.lambda2 * aligned
        compared = (
            sample_distillation(teacher_logits, student_logits.detach(), config.temperature)
            if by_teacher
            else sample_cross_entropy(student_logits.detach(), y)
        )
        # In the log's mean over the processes, each part is that of the whole batch.
        weight = 1.0 if chosen is None else chosen.weight
        kept = torch.ones_like(batch.labels, dtype=torch.bool) if chosen is None else chosen.kept
        return {
            "loss": weight * loss,
            "ce": weight * ce.detach(),
            "logits": weight * distilled.detach(),
            "cm": weight * aligned.detach(),
            "kept": kept.sum() * processes.number(),
            "decisions": Decisions(_known(losses, kept, compared), kept),
        }

    def trained_features(self, images: Tensor) -> Tensor:
        """The backbone's features of what is trained on, [B, F].

        Raises:
            ScmdError: Batch norm in training mode has a single value per channel.
        """
        try:
            return self.backbone(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            who = "a step" if processes.number() == 1 else "a process"
            raise ScmdError(
                f"selection.fraction = {self.config.selection.fraction}: {who} trains on a single "
                "sample, and batch norm that is not frozen needs more. Raise --selection.fraction "
                "or --batch-per-domain, or pass --freeze-batch-norm"
            ) from error

    @torch.no_grad()
    def selection_losses(
        self, images: Tensor, labels: Tensor, teacher_logits: Tensor | None = None
    ) -> Tensor:
        """What selection compares: [B], in eval mode, touching no running statistic.

        That is the cross-entropy of every sample, or L_logits where the teacher's are given.
        ``random`` does not look at losses, so they are NaN and no forward is spent on them.
        """
        if self.config.selection.rule == "random":
            return torch.full(labels.shape, math.nan, device=images.device)
        full_precision = self.config.selection.precision == "fp32"
        with (
            evaluating(self.backbone),
            torch.autocast(
                images.device.type,
                enabled=torch.is_autocast_enabled(images.device.type) and not full_precision,
                # In older torch the step would go on with what is cast here, without gradient.
                cache_enabled=False,
            ),
        ):
            resolution = self.config.selection.resolution
            if resolution < 1:
                logits = self.classifier(cast(Any, self.backbone).reduced(images, resolution))
            else:
                logits = self.predict(images)
        if teacher_logits is None:
            return sample_cross_entropy(logits, labels)
        return sample_distillation(teacher_logits, logits, self.config.temperature)

    @torch.no_grad()
    def _opinion(self, images: Tensor, sample_ids: Tensor) -> Tensor:
        return self.teacher.logits(images, sample_ids)

    def param_groups(self) -> list[dict[str, Any]]:
        """γ has a learning rate of its own, and decays only with ``decay_all``."""
        return self.groups_apart("log_scale", self.config.lr_scale)

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp γ to [0, ln 100]."""
        self.log_scale.clamp_(0, LOG_SCALE_MAX)


def _check_reduced(backbone: nn.Module, resolution: float) -> None:
    reduced = getattr(backbone, "reduced", None)
    normalize = getattr(backbone, "normalize", None)
    if reduced is None or normalize is None:
        raise ScmdError(
            f"selection.resolution = {resolution}: {type(backbone).__name__} cannot be asked at a "
            "lower resolution. Leave it at 1"
        )
    device = next(backbone.parameters()).device
    try:
        with torch.no_grad(), evaluating(backbone):
            reduced(torch.zeros(1, 3, *normalize.size, device=device), resolution)
    except Exception as error:  # timm's models refuse sizes in many ways
        raise ScmdError(
            f"selection.resolution = {resolution}: the student takes no smaller images "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). Leave it at 1"
        ) from error


def _known(losses: Tensor | None, kept: Tensor, trained: Tensor) -> Tensor:
    """In a whole-batch step, and for ``random``, the losses of the training forward serve.

    Args:
        losses: What was compared, [B]; None in a whole-batch step.
        kept: bool [B].
        trained: Of what is kept, in order; ignored where nothing is.
    """
    if losses is None:
        return trained
    scattered = torch.zeros(kept.shape, device=trained.device).masked_scatter(kept, trained)
    return torch.where(kept & losses.isnan(), scattered, losses)
