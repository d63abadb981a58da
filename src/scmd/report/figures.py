"""Figures for a page: SVG that takes the page's text colour, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from scmd.report.plots import NO_FORMULAS, in_legend

# Stands for the page's text colour, and is not used for anything else.
_INK = "#010203"
_COLOURS = ("#2f7ed8", "#e07b39", "#3a9d5d", "#b8509e", "#8a7a3c", "#5d6bd1", "#c0504d", "#3b9fb0")
_STYLE: Any = {
    **NO_FORMULAS,
    "svg.fonttype": "none",
    "svg.hashsalt": "scmd",
    "font.size": 10,
    "axes.prop_cycle": cycler(color=_COLOURS),
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}


def curves_svg(lines: Sequence[Mapping[str, Any]], chosen_step: int, alt: str) -> str:
    """Training losses and the sources' holdout accuracy over steps, one above the other."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6, 5.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        losses = [line for line in lines if "loss" in line]
        names = dict.fromkeys(n for line in losses for n in line if n not in ("step", "kept"))
        for name in names:
            points = [(line["step"], line[name]) for line in losses if name in line]
            upper.plot(*zip(*points, strict=True), label=name, lw=2 if name == "loss" else 1)
        upper.set(ylabel="loss", ylim=(0, None))
        scores = [line for line in lines if "holdout" in line]
        for domain in scores[0]["holdout"] if scores else ():
            steps, values = [s["step"] for s in scores], [s["holdout"][domain] for s in scores]
            lower.plot(steps, values, "o-", ms=3, lw=1, label=in_legend(domain))
        lower.axvline(chosen_step, color=_INK, ls=":", lw=1, label="chosen")
        lower.set(xlabel="step", ylabel="accuracy, sources' holdout", ylim=(0, 1.02))
        return _svg(figure, (upper, lower), alt)


@dataclass(frozen=True)
class Reliability:
    """A calibration diagram's bins: those that hold anything."""

    confidence: list[float]
    accuracy: list[float]
    n: list[int]


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> Reliability:
    """Mean confidence and accuracy of predictions, by confidence.

    Args:
        confidence: Of each prediction, [n].
        right: Whether it is the label, bool [n].
        bins: Equally wide ones, as in the calibration error.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    held = [place == b for b in range(bins) if (place == b).any()]
    return Reliability(
        [float(confidence[mask].mean()) for mask in held],
        [float(right[mask].mean()) for mask in held],
        [int(mask.sum()) for mask in held],
    )


def reliability_svg(found: Mapping[str, Reliability], alt: str) -> str:
    """Accuracy over confidence, a line for each name; confidence is right on the diagonal."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5, 4.4), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_INK, ls=":", lw=1)
        for name, line in found.items():
            axes.plot(line.confidence, line.accuracy, "o-", ms=4, lw=1.5, label=name)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.01), ylim=(0, 1.02))
        return _svg(figure, (axes,), alt)


def _svg(figure: Figure, axes: Sequence[Any], alt: str) -> str:
    for part in axes:
        part.grid(alpha=0.25)
        part.set_facecolor("none")
        part.spines[["top", "right"]].set_visible(False)
        if part.get_legend_handles_labels()[1]:
            part.legend(fontsize=8, framealpha=0)
    figure.patch.set_alpha(0)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
