"""From predictions to numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from scmd.models.images import as_float

BOOTSTRAPS = 10_000
EVALUATION_BATCH = 64


@torch.inference_mode()
def collect_logits(
    predict: Callable[[Tensor], Tensor], batches: Iterable[Tensor], device: torch.device
) -> Tensor:
    """Ask ``predict`` about every batch, in order.

    Args:
        predict: Maps float images in [0, 1] (uint8 is scaled, other floats are passed on) to
            logits [b, C].
        batches: Images [b, 3, H, W].
        device: Where ``predict`` computes.

    Returns:
        float32 [N, C], on the CPU.
    """
    logits = []
    for images in batches:
        images = as_float(images.to(device)).contiguous(memory_format=torch.channels_last)
        logits.append(predict(images).float().cpu())
    return torch.cat(logits)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of samples whose largest logit is the label's. Logits [N, C], labels int64 [N]."""
    return float(multiclass_accuracy(logits, labels, logits.shape[1], average="micro"))


def accuracy_interval(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """95 % bootstrap interval of ``accuracy``: percentiles over 10,000 resamplings of the samples.

    A resampling draws N hits or misses with replacement, so its number of hits is binomial and is
    drawn as such; torchmetrics' ``BootStrapper`` would copy the metric for each of them. The
    interval says how far the number would move with other images of the same domain; it says
    nothing about other domains or other training seeds.
    """
    n = len(labels)
    hits = np.random.default_rng(0).binomial(n, accuracy(logits, labels), size=BOOTSTRAPS)
    low, high = np.quantile(hits / n, (0.025, 0.975))
    return float(low), float(high)


def measure(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """What is reported about one domain.

    Args:
        logits: [N, C].
        labels: int64 [N].
        classes: The C class names.

    Returns:
        ``n``, ``accuracy``, ``interval`` (95 %, bootstrap), ``macro_accuracy`` (mean over the
        classes that occur), ``ece`` (expected calibration error, 15 bins), ``per_class``
        (accuracy and n) and ``confusion`` (rows are labels, columns predictions).
    """
    count = len(classes)
    confusion = multiclass_confusion_matrix(logits.argmax(1), labels, count)
    totals = confusion.sum(1)
    recall = confusion.diag() / totals.clamp(min=1)
    return {
        "n": len(labels),
        "accuracy": accuracy(logits, labels),
        "interval": list(accuracy_interval(logits, labels)),
        "macro_accuracy": float(recall[totals > 0].mean()),
        "ece": float(multiclass_calibration_error(logits.softmax(1), labels, count, n_bins=15)),
        "per_class": {
            name: {"accuracy": float(recall[i]), "n": int(totals[i])}
            for i, name in enumerate(classes)
            if totals[i] > 0
        },
        "confusion": confusion.tolist(),
    }
