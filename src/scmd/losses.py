"""The losses of SCMD, in the paper's order, as functions of tensors.

Symbols: x an image, y its label, f the student's backbone, h its classifier, P the projection,
t the teacher's text embeddings (L2-normalised), p the teacher's opinion, τ the temperature,
g = exp(γ) the learned scale. B is the number of samples kept, C of classes, E the embedding size.

Source: Leng, Li and Wang, "Choosing Wisely and Learning Deeply", TMLR 2024, arXiv:2311.15145,
section 3. Each loss is a batch mean, computed in float32 whatever its inputs are and wherever it is
called. Gradients flow to the student only: what comes from the teacher is a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_cross_entropy(student_logits: Tensor, labels: Tensor) -> Tensor:
    """CE(h(f(x)), y) of every sample, not averaged: what selection looks at.

    Args:
        student_logits: h(f(x)), [B, C].
        labels: y, int64 [B].

    Returns:
        float32 [B].
    """
    return F.cross_entropy(student_logits.float(), labels, reduction="none")


def classification(student_logits: Tensor, labels: Tensor) -> Tensor:
    """L_CE = CE(h(f(x)), y), a scalar. Shapes as for ``sample_cross_entropy``."""
    return sample_cross_entropy(student_logits, labels).mean()


def focal_classification(student_logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Batch mean of (1 − q_y)^γ CE(h(f(x)), y), q = softmax(h(f(x))); with γ = 0 it is L_CE.

    The paper's alternative to selecting: hard samples weigh more, and none is left out.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.

    Args:
        student_logits: h(f(x)), [B, C].
        labels: y, int64 [B].
        gamma: γ, from 0.
    """
    if gamma == 0:
        return classification(student_logits, labels)
    cross_entropy = sample_cross_entropy(student_logits, labels)
    # At 0 the derivative of a power below 1 is not finite.
    missing = (-torch.expm1(-cross_entropy)).clamp(min=torch.finfo(torch.float32).tiny)
    return (missing**gamma * cross_entropy).mean()


def tempered_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """τ² KL(softmax(teacher/τ) ‖ softmax(student/τ)), a scalar (Hinton et al., arXiv:1503.02531).

    Args:
        teacher_logits: s · cos(φ_img(x), t), [B, C].
        student_logits: [B, C].
        temperature: τ.
    """
    return sample_distillation(teacher_logits, student_logits, temperature).mean()


def sample_distillation(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float
) -> Tensor:
    """``tempered_kl`` of every sample, not averaged: what the rule kd-loss selects by.

    Returns:
        float32 [B].
    """
    log_q = F.log_softmax(student_logits.float() / temperature, dim=-1)
    log_p = F.log_softmax(teacher_logits.detach().float() / temperature, dim=-1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def logit_distillation(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float
) -> Tensor:
    """L_logits = τ² KL(p ‖ softmax(h(f(x))/τ)): the classifier learns the teacher's opinion."""
    return tempered_kl(teacher_logits, student_logits, temperature)


def cross_modality_logits(projected: Tensor, text_embeddings: Tensor, scale: Tensor) -> Tensor:
    """g · cos(P f(x), t), [B, C]: the student's opinion in the teacher's space.

    Args:
        projected: P f(x), [B, E].
        text_embeddings: t, L2-normalised, [C, E].
        scale: g = exp(γ), a scalar.
    """
    texts = text_embeddings.detach().float()
    # Autocast would multiply in half precision, where logits near 25 are 1/8 apart.
    with torch.autocast(projected.device.type, enabled=False):
        return scale * F.normalize(projected.float(), dim=-1) @ texts.T


def cross_modality_distillation(
    teacher_logits: Tensor,
    projected: Tensor,
    text_embeddings: Tensor,
    scale: Tensor,
    temperature: float,
) -> Tensor:
    """L_CM = τ² KL(p ‖ softmax(g · cos(P f(x), t)/τ)): features align with the class texts."""
    logits = cross_modality_logits(projected, text_embeddings, scale)
    return tempered_kl(teacher_logits, logits, temperature)
