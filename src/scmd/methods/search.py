"""Ranges that hyper-parameters are drawn from.

A method's ``search_space`` maps the name of a setting of its ``Config`` (nested ones with dots, as
in ``selection.fraction``) to a range. Draw 0 of a search is always the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Range(Protocol):
    """Something to draw a value from."""

    def draw(self, rng: np.random.RandomState) -> Any:
        """One value."""
        ...


@dataclass(frozen=True)
class Choice:
    """One of a few values, each as likely as the others."""

    values: tuple[Any, ...]

    def draw(self, rng: np.random.RandomState) -> Any:
        """One of the values."""
        return self.values[rng.randint(len(self.values))]


@dataclass(frozen=True)
class Uniform:
    """A number between two."""

    low: float
    high: float

    def draw(self, rng: np.random.RandomState) -> float:
        """A number in [low, high)."""
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class LogUniform:
    """A positive number whose logarithm is uniform."""

    low: float
    high: float

    def draw(self, rng: np.random.RandomState) -> float:
        """A number in [low, high)."""
        return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))


SearchSpace = Mapping[str, Range]
