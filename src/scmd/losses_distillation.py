"""The losses of the distillation baselines, as functions of tensors.

Symbols: f the student's backbone, P a linear projection into the teacher's space, φ(x) the
teacher's image embedding and t_c its text embedding of class c (both L2-normalised), y the label.
B is the number of samples, F of features, E the embedding size, C the number of classes. Each loss
is a scalar, computed in float32 whatever its inputs are and wherever it is called. Gradients flow
to the student only: what comes from the teacher is a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def hint(projected: Tensor, embeddings: Tensor) -> Tensor:
    """Batch mean of ‖u − φ(x)‖², u = P f(x)/‖P f(x)‖; of unit vectors that is 2 (1 − cos).

    Source: Romero et al., "FitNets", ICLR 2015, arXiv:1412.6550, the hint loss, at the last layer.

    Args:
        projected: P f(x), [B, E].
        embeddings: φ(x), [B, E].
    """
    unit = F.normalize(projected.float(), dim=-1)
    return (unit - embeddings.detach().float()).square().sum(-1).mean()


def distance_relation(features: Tensor, embeddings: Tensor) -> Tensor:
    """RKD-D: mean of ℓ(ψ(f_i, f_j), ψ(φ_i, φ_j)) over all pairs of two different samples.

    ψ(a, b) = ‖a − b‖/μ with μ the mean distance of the batch, so that only proportions count;
    ℓ is Huber's loss with δ = 1. Of fewer than two samples it is 0.

    Source: Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068. The paper
    has the sum over the pairs; a mean does not grow with the batch.

    Args:
        features: f(x), [B, F].
        embeddings: φ(x), [B, E].
    """
    size = len(features)
    if size < 2:
        return 0 * features.float().sum()
    pairs = ~torch.eye(size, dtype=torch.bool, device=features.device)
    student, teacher = (_distances(points)[pairs] for points in (features, embeddings.detach()))
    return F.huber_loss(student / _positive(student.mean()), teacher / _positive(teacher.mean()))


def angle_relation(features: Tensor, embeddings: Tensor) -> Tensor:
    """RKD-A: mean of ℓ(cos ∠ f_i f_j f_k, cos ∠ φ_i φ_j φ_k) over all triples of different samples.

    ℓ is Huber's loss with δ = 1. Where two samples coincide there is no angle, and its cosine is
    taken as 0. Of fewer than three samples the loss is 0. It needs memory for B² F numbers.

    Source and arguments as for ``distance_relation``.
    """
    size = len(features)
    if size < 3:
        return 0 * features.float().sum()
    different = ~torch.eye(size, dtype=torch.bool, device=features.device)
    triples = different[:, :, None] & different[:, None, :] & different[None, :, :]
    student, teacher = (_cosines(points)[triples] for points in (features, embeddings.detach()))
    return F.huber_loss(student, teacher)


def text_distance(projected: Tensor, text_embeddings: Tensor, labels: Tensor) -> Tensor:
    """L_AD, batch mean of 1 − cos(P f(x), t_y): the feature goes to the text of its label.

    Source: Huang et al., "A Sentence Speaks a Thousand Images", ICCV 2023, arXiv:2309.12530
    (RISE), the absolute distance.

    Args:
        projected: P f(x), [B, E].
        text_embeddings: t, L2-normalised, [C, E].
        labels: y, int64 [B].
    """
    own = text_embeddings.detach().float()[labels]
    return (1 - (F.normalize(projected.float(), dim=-1) * own).sum(-1)).mean()


def text_relation(projected: Tensor, text_embeddings: Tensor, labels: Tensor) -> Tensor:
    """L_RD: the feature stands to all the texts as the text of its label does.

    Mean over samples and classes of (softmax_c cos(P f(x), t_c) − softmax_c cos(t_y, t_c))², times
    (C/3)²: softmaxes over C texts are of the size 1/C, and the released code has three. Source and
    arguments as for ``text_distance``, the relative distance; what it is compared with is different
    here, see ``methods/rise.py``.
    """
    texts = text_embeddings.detach().float()
    # Autocast would multiply in half precision.
    with torch.autocast(projected.device.type, enabled=False):
        student = (F.normalize(projected.float(), dim=-1) @ texts.T).softmax(-1)
        wanted = (texts @ texts.T).softmax(-1)[labels]
    return (len(texts) / 3) ** 2 * F.mse_loss(student, wanted)


def _differences(points: Tensor) -> Tensor:
    """x_i − x_j: [B, B, F]."""
    points = points.float()
    return points[:, None] - points[None, :]


def _distances(points: Tensor) -> Tensor:
    """‖x_i − x_j‖: [B, B]. Where two points coincide, the gradient is 0."""
    return torch.linalg.vector_norm(_differences(points), dim=-1)


def _cosines(points: Tensor) -> Tensor:
    """The cosine of the angle at x_j between x_i and x_k, at [j, i, k]: [B, B, B]."""
    edges = _differences(points)
    lengths = torch.linalg.vector_norm(edges, dim=-1, keepdim=True)
    # Not F.normalize: at an edge of length 0 its gradient is enormous.
    directions = edges / torch.where(lengths > 0, lengths, 1)
    with torch.autocast(points.device.type, enabled=False):
        return directions @ directions.transpose(1, 2)


def _positive(mean: Tensor) -> Tensor:
    return mean.clamp(min=torch.finfo(torch.float32).tiny)
