"""The embedded data set: real handwritten digits in four domains, without a download.

The digits are the 1,797 of scikit-learn (UCI, "Optical Recognition of Handwritten Digits", Alpaydin
and Kaynak 1998; 8 × 8 pixels, 17 levels). This module says which digit belongs where; how a domain
looks is in ``digit_styles``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DOMAINS = ("chalk", "ink", "outline", "photo")
PER_DOMAIN = 375
"""Digits of each domain; what is left over, 297, is kept out of the set."""


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    return np.asarray(pixels).reshape(-1, 8, 8), np.asarray(labels)


@cache
def _order() -> np.ndarray:
    """All digits, shuffled once and for all, such that every stretch of ten holds each class."""
    _, labels = _digits()
    generator = np.random.default_rng(0)
    place = np.empty(len(labels))
    for label in range(10):
        rows = generator.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + generator.uniform(0, 1, len(rows))) / len(rows)
    return np.argsort(place)


def digit(index: int) -> np.ndarray:
    """One digit's strokes, from 0 (paper) to 1 (ink): float [8, 8]."""
    images, _ = _digits()
    return images[index] / 16


def label(index: int) -> int:
    """Which digit it is, from 0 to 9."""
    return int(_digits()[1][index])


def members(domain: str) -> np.ndarray:
    """The digits of a domain; no digit is in two domains. Indices, int64 [375]."""
    start = DOMAINS.index(domain) * PER_DOMAIN
    return np.sort(_order()[start : start + PER_DOMAIN])


def kept_out() -> np.ndarray:
    """The digits that are in no domain, for a teacher to learn handwriting from: int64 [297]."""
    return np.sort(_order()[len(DOMAINS) * PER_DOMAIN :])
