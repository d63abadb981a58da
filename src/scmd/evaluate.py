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
_PERCENTILES = (0.025, 0.975)
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


def target_scores(logits: Tensor, labels: Tensor, domainbed: Tensor) -> dict[str, float]:
    """Accuracies on a target, as model selection compares them.

    Args:
        logits: Of all its images, [N, C].
        labels: int64 [N].
        domainbed: Whether an image is of the part that DomainBed scores, bool [N].

    Returns:
        ``accuracy`` on all, ``domainbed_part``, and ``holdout`` on the rest; a part that has no
        image is left out.
    """
    parts = {
        "accuracy": torch.ones_like(domainbed),
        "domainbed_part": domainbed,
        "holdout": ~domainbed,
    }
    return {
        name: accuracy(logits[part], labels[part]) for name, part in parts.items() if part.any()
    }


def accuracy_interval(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """95 % bootstrap interval of ``accuracy``. Logits [N, C], labels int64 [N]."""
    hits = accuracy(logits, labels) * len(labels)
    overall, _, _ = bootstrap_intervals(np.array([hits]), np.array([len(labels)]))
    return overall


def bootstrap_intervals(
    hits: np.ndarray, totals: np.ndarray
) -> tuple[tuple[float, float], tuple[float, float], np.ndarray]:
    """95 % bootstrap intervals: percentiles over 10,000 resamplings of the samples.

    Drawing N samples with replacement makes the numbers of hits and misses of every class
    multinomial, and they are drawn as such; torchmetrics' ``BootStrapper`` would copy the metric
    for each resampling. An interval says how far a number would move with other images of the same
    domain; it says nothing about other domains or other training seeds.

    Args:
        hits: Right predictions of each class, [C].
        totals: Samples of each class, [C], none of them 0.

    Returns:
        The intervals of the accuracy, of the mean over the classes' accuracies, and of each
        class's accuracy, [C, 2].
    """
    n = int(totals.sum())
    cells = np.concatenate([hits, totals - hits]) / n
    draws = np.random.default_rng(0).multinomial(n, cells / cells.sum(), size=BOOTSTRAPS)
    drawn_hits, drawn_misses = draws[:, : len(hits)], draws[:, len(hits) :]
    drawn = drawn_hits + drawn_misses
    # A class of which a resampling has nothing has no accuracy there.
    per_class = np.where(drawn > 0, drawn_hits / np.maximum(drawn, 1), np.nan)
    overall = np.quantile(drawn_hits.sum(1) / n, _PERCENTILES)
    macro = np.quantile(np.nanmean(per_class, axis=1), _PERCENTILES)
    each = np.nanquantile(per_class, _PERCENTILES, axis=0).T
    return (overall[0].item(), overall[1].item()), (macro[0].item(), macro[1].item()), each


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error, 15 bins, of softmax(logits). Logits [N, C], labels int64 [N]."""
    probabilities = logits.softmax(1)
    return float(multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=15))


def measure(
    logits: Tensor, labels: Tensor, classes: Sequence[str], temperature: float | None = None
) -> dict[str, Any]:
    """What is reported about one domain.

    Args:
        logits: [N, C].
        labels: int64 [N].
        classes: The C class names.
        temperature: What a deployed student divides its logits by, where that is known.

    Returns:
        ``n``, ``accuracy`` and its ``interval`` (95 %, bootstrap), ``macro_accuracy`` (mean over
        the classes that occur) and ``macro_interval``, ``ece`` (expected calibration error, 15
        bins, of the logits as they are), ``ece_calibrated`` (with the temperature, where there is
        one), ``per_class`` (accuracy, interval and n) and ``confusion`` (rows are labels, columns
        predictions).
    """
    count = len(classes)
    confusion = multiclass_confusion_matrix(logits.argmax(1), labels, count)
    totals = confusion.sum(1)
    recall = confusion.diag() / totals.clamp(min=1)
    occur = totals > 0
    overall, macro, each = bootstrap_intervals(
        confusion.diag()[occur].numpy(), totals[occur].numpy()
    )
    interval_of = dict(zip(np.flatnonzero(occur.numpy()).tolist(), each.tolist(), strict=True))
    return {
        "n": len(labels),
        "accuracy": accuracy(logits, labels),
        "interval": list(overall),
        "macro_accuracy": float(recall[occur].mean()),
        "macro_interval": list(macro),
        "ece": calibration_error(logits, labels),
        **(
            {"ece_calibrated": calibration_error(logits / temperature, labels)}
            if temperature is not None
            else {}
        ),
        "per_class": {
            name: {
                "accuracy": float(recall[i]),
                "interval": interval_of[i],
                "n": int(totals[i]),
            }
            for i, name in enumerate(classes)
            if i in interval_of
        },
        "confusion": confusion.tolist(),
    }
