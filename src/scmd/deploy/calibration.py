"""Probabilities that mean what they say: a temperature, fitted on the sources' holdout."""

from __future__ import annotations

import math
from typing import Any

from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from scmd.evaluate import calibration_error

LOWEST, HIGHEST = 0.1, 10.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """T for which softmax(logits / T) has the lowest cross-entropy, between 0.1 and 10.

    It is 1 where every sample is classified rightly: the cross-entropy then falls with T down to
    0, and such a holdout cannot tell how sure is too sure.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv:1706.04599,
    section 4.2.

    Args:
        logits: Of samples that were not trained on, [N, C].
        labels: int64 [N].
    """
    if bool((logits.argmax(1) == labels).all()):
        return 1.0
    # The cross-entropy is convex in 1/T, so that along log T, too, it has no second valley.
    found = minimize_scalar(
        lambda log_t: cross_entropy(logits, labels, math.exp(log_t)),
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    temperature = round(math.exp(found.x), 6)
    better = cross_entropy(logits, labels, temperature) < cross_entropy(logits, labels)
    return temperature if better else 1.0


def at_limit(temperature: float) -> bool:
    """Whether a fitted temperature stopped where the search ends: the right one lies beyond."""
    return any(math.isclose(temperature, limit, rel_tol=1e-4) for limit in (LOWEST, HIGHEST))


def cross_entropy(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Mean of −log softmax(logits / T) at the labels. Logits [N, C], labels int64 [N]."""
    return float(F.cross_entropy(logits.double() / temperature, labels))


def calibrate(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Fit the temperature, and say what it does to the samples that it was fitted on.

    Args:
        logits: Of the sources' holdout, pooled: [N, C].
        labels: int64 [N].

    Returns:
        ``temperature``, ``n``, and ``holdout``: ``cross_entropy`` and ``ece``, each as
        [uncalibrated, calibrated].
    """
    temperature = fit_temperature(logits, labels)
    return {
        "temperature": temperature,
        "n": len(labels),
        "holdout": {
            "cross_entropy": [cross_entropy(logits, labels, t) for t in (1.0, temperature)],
            "ece": before_and_after(logits, labels, temperature),
        },
    }


def before_and_after(logits: Tensor, labels: Tensor, temperature: float) -> list[float]:
    """The expected calibration error without and with a temperature."""
    return [calibration_error(logits / t, labels) for t in (1.0, temperature)]
