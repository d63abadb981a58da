"""Plots of runs whose domains and classes have names that mean something to matplotlib."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from scmd.report.figures import curves_svg
from scmd.report.plots import plot_confusion, plot_curves

NAMES = ("$a_{$", "$x$ & $y^$", "_hidden", "<b>50 %")


def lines(name: str) -> list[dict]:
    scores = {"holdout": {name: 0.5, "photo": 0.4}, "holdout_accuracy": 0.45}
    return [{"step": 0, **scores}, {"step": 1, "loss": 1.0}]


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """What stands in the figures that are saved."""
    found: list[str] = []
    save = Figure.savefig

    def listening(figure: Figure, *args, **given):
        save(figure, *args, **given)
        for axes in figure.axes:
            legend = axes.get_legend()
            shown = [*axes.get_xticklabels(), *(legend.get_texts() if legend else ())]
            found.extend(text.get_text() for text in shown)

    monkeypatch.setattr(Figure, "savefig", listening)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is(name, texts, tmp_path: Path):
    plot_confusion(tmp_path / "a.png", [[1, 2], [0, 1]], [name, "cat"], f"target {name}")
    assert name in texts
    texts.clear()
    plot_curves(tmp_path / "b.png", lines(name), f"target {name}", 0, [1])
    assert name in [text.strip("\u200b") for text in texts]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_names_every_domain_in_its_curves(name):
    svg = curves_svg(lines(name), 0, f"{name} over steps")
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = [text.strip("\u200b") for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    assert escaped in shown
