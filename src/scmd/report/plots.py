"""Plots of a run, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from scmd.files import writing_aside

NO_FORMULAS: Any = {"text.parse_math": False}
"""A name may have dollars in it."""


def in_legend(name: str) -> str:
    """A label that a legend shows: it leaves out what begins with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


@mpl.rc_context(NO_FORMULAS)
def plot_confusion(
    path: Path, confusion: Sequence[Sequence[int]], classes: Sequence[str], title: str
) -> None:
    """A confusion matrix: rows are labels, columns predictions, shades are shares of the row.

    Args:
        path: The PNG to write.
        confusion: Counts, [C, C].
        classes: The C class names.
        title: Above the matrix.
    """
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(3 + 0.45 * len(classes), 40)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="label", title=title)
    if len(classes) <= 30:
        for row in range(len(classes)):
            for column in range(len(classes)):
                if counts[row, column]:
                    color = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(
                        column, row, counts[row, column], ha="center", va="center", color=color,
                        fontsize=8,
                    )  # fmt: skip
    figure.colorbar(image, label="share of the label's images", shrink=0.8)
    _save(figure, path)


@mpl.rc_context(NO_FORMULAS)
def plot_curves(
    path: Path,
    lines: Sequence[Mapping[str, Any]],
    title: str,
    best_step: int,
    switches: Sequence[int],
) -> None:
    """Training losses and the sources' holdout accuracy over steps.

    Args:
        path: The PNG to write.
        lines: The run's ``metrics.jsonl``.
        title: Above the plots.
        best_step: The step whose weights were chosen.
        switches: Steps at which the phase changes.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [line for line in lines if "loss" in line]
    for name in losses[0] if losses else ():
        if name not in ("step", "kept"):
            points = [(line["step"], line[name]) for line in losses if name in line]
            left.plot(*zip(*points, strict=True), label=name, lw=2 if name == "loss" else 1)
    left.set(xlabel="step", ylabel="loss", title="losses on what was kept", ylim=(0, None))
    scores = [line for line in lines if "holdout" in line]
    for domain in scores[0]["holdout"] if scores else ():
        right.plot(
            [s["step"] for s in scores], [s["holdout"][domain] for s in scores], "o-", ms=3, lw=1,
            label=in_legend(domain),
        )  # fmt: skip
    if scores:
        right.plot(
            [s["step"] for s in scores], [s["holdout_accuracy"] for s in scores], "ko-", ms=4,
            label="mean",
        )  # fmt: skip
    right.axvline(best_step, color="grey", ls=":", label="chosen")
    right.set(xlabel="step", ylabel="accuracy", title="holdout of the sources", ylim=(0, 1.02))
    for axes in (left, right):
        for step in switches:
            axes.axvline(step, color="tab:orange", ls="--", lw=1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with writing_aside(path) as file:
        figure.savefig(file, format="png", dpi=120)
