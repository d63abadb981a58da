"""From chosen runs to tables: accuracies, paired tests, the gap closed, classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scmd.protocol.model_selection import Chosen, Score
from scmd.protocol.statistics import Estimate, estimate_mean, holm, paired_p_value

MEAN = ""
"""Stands for the mean over targets where a target is asked for; no domain is called so."""


@dataclass(frozen=True)
class Grid:
    """The accuracies of one data set, by method, target and trial."""

    labels: tuple[str, ...]
    targets: tuple[str, ...]
    accuracy: dict[tuple[str, str, int], float]
    """(label, target, trial) to an accuracy from 0 to 1."""

    def trials(self, label: str, target: str) -> dict[int, float]:
        """Trial to accuracy; of the mean, the trials that have every target."""
        if target != MEAN:
            return {
                trial: value
                for (name, domain, trial), value in self.accuracy.items()
                if (name, domain) == (label, target)
            }
        by_target = [self.trials(label, target) for target in self.targets]
        complete = set.intersection(*(set(values) for values in by_target))
        return {t: float(np.mean([values[t] for values in by_target])) for t in sorted(complete)}

    def estimate(self, label: str, target: str, ddof: int = 1) -> Estimate | None:
        """Over trials; None where there is none."""
        values = list(self.trials(label, target).values())
        return estimate_mean(values, ddof) if values else None


def grid(chosen: Sequence[Chosen], score: Score) -> Grid:
    """Arrange what was chosen; labels stay in the order in which they come."""
    return Grid(
        tuple(dict.fromkeys(c.record.label for c in chosen)),
        tuple(sorted({c.record.target for c in chosen})),
        {(c.record.label, c.record.target, c.record.trial): c.accuracy(score) for c in chosen},
    )


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline, on the same targets with the same trial seeds."""

    label: str
    pairs: int
    difference: Estimate
    """Mean over pairs of (target, trial), with its 95 % interval."""
    p: float
    p_holm: float
    """Corrected for the number of methods in the table."""


def compare(table: Grid, baseline: str) -> list[Comparison]:
    """Paired t-tests of every method against a baseline, over all pairs of target and trial.

    Its unit is a target with a trial seed, as if all pairs were independent. But pairs of a target
    share its images: the interval speaks of other seeds on these targets, and is too narrow for
    other targets, of which there are few. Where all methods share batches and initial weights, as
    here, pairing takes much of the noise away.
    """
    rows: list[tuple[str, list[float]]] = []
    for label in table.labels:
        differences = [
            table.accuracy[label, target, trial] - table.accuracy[baseline, target, trial]
            for name, target, trial in table.accuracy
            if name == label and (baseline, target, trial) in table.accuracy
        ]
        if label != baseline and differences:
            rows.append((label, differences))
    p_values = [paired_p_value(differences) for _, differences in rows]
    return [
        Comparison(label, len(differences), estimate_mean(differences), p, corrected)
        for (label, differences), p, corrected in zip(rows, p_values, holm(p_values), strict=True)
    ]


def gap_closed(table: Grid, label: str, target: str, erm: str, teacher: str) -> float:
    """(method - ERM) / (teacher - ERM), of means over the trials that all three have.

    NaN where one is missing, or where the teacher is not above ERM: then there is no gap.
    """
    own, low, high = (table.trials(name, target) for name in (label, erm, teacher))
    shared = sorted(own.keys() & low.keys() & high.keys())
    if not shared:
        return math.nan
    means = [float(np.mean([v[t] for t in shared])) for v in (own, low, high)]
    return (means[0] - means[1]) / (means[2] - means[1]) if means[2] > means[1] else math.nan


def class_means(chosen: Sequence[Chosen]) -> dict[tuple[str, str], dict[str, Estimate]]:
    """(label, target) to class to accuracy over trials, of the weights that a run deployed."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for choice in chosen:
        record = choice.record
        classes = found.setdefault((record.label, record.target), {})
        for name, result in record.summary["results"][record.target]["per_class"].items():
            classes.setdefault(name, []).append(result["accuracy"])
    return {
        key: {name: estimate_mean(values) for name, values in classes.items()}
        for key, classes in found.items()
    }
