"""Means, errors, intervals and paired tests over trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# Accuracies are counts over counts: what is smaller than this is no difference.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean over trials."""

    n: int
    mean: float
    error: float
    """Standard error of the mean; NaN for a single trial."""
    low: float
    """Of the 95 % interval by Student's t; NaN for a single trial."""
    high: float


def estimate_mean(values: Sequence[float] | np.ndarray, ddof: int = 1) -> Estimate:
    """Mean, standard error and 95 % interval of independent values.

    Args:
        values: One per trial; at least one.
        ddof: Of the printed standard error; DomainBed's and the paper's is 0. The interval is
            always that of ddof 1.
    """
    values = np.asarray(values, dtype=float)
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Estimate(n, mean, float("nan") if ddof else 0.0, float("nan"), float("nan"))
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    error = values.std(ddof=ddof) / np.sqrt(n)
    return Estimate(n, mean, float(error), float(mean - half), float(mean + half))


def paired_p_value(differences: Sequence[float]) -> float:
    """Two-sided p-value of a paired t-test; NaN for fewer than two pairs."""
    if len(differences) < 2:
        return float("nan")
    if np.ptp(differences) < _ROUNDING:
        return 1.0 if abs(differences[0]) < _ROUNDING else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)  # type: ignore[attr-defined]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given; NaN stays NaN."""
    tested = [place for place, p in enumerate(p_values) if not np.isnan(p)]
    corrected = [float("nan")] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(tested, key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
