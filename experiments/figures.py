"""The figures of docs/results.md and docs/theory.md: ``python -m experiments.figures``.

Drawn from the numbers in ``found``; a figure whose numbers are not complete is left out. Beside a
mean its seeds are shown, a small mark each: an interval over two of them would say less.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import found
from experiments.methods import register
from experiments.plan import HERE, KEPT, Experiment, Run, load
from experiments.tables import chosen, complete
from scmd.methods.base import MethodConfig
from scmd.methods.scmd import SCMDConfig
from scmd.protocol.tables import MEAN, Grid

DOCS = HERE.parent / "docs"
STEP_TICKS, SAMPLE_TICKS = (125, 250, 500), (3_000, 6_000, 12_000, 24_000)


def main(numbers: Path = KEPT, out: Path = DOCS) -> None:
    """Draw what can be drawn.

    Args:
        numbers: Where the numbers of the runs are.
        out: Where the figures go.
    """
    register()
    for name, draw in FIGURES.items():
        figure = draw(numbers)
        if figure is None:
            print(f"{name}: numbers are missing")
            continue
        figure.savefig(out / name, dpi=120, bbox_inches="tight")
        plt.close(figure)
        print(out / name)


def budget(numbers: Path) -> Figure | None:
    """Accuracy against steps, and against samples with a gradient, a line for each ρ."""
    grid, experiment = _grid("digits-budget", numbers)
    if grid is None:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    lines: dict[float, list[Run]] = defaultdict(list)
    for run in experiment.runs(experiment.targets[0], 0):
        if isinstance(run.config.hparams, SCMDConfig):
            lines[_fraction(run.config.hparams)].append(run)
    for fraction, runs in sorted(lines.items()):
        by_steps = sorted(runs, key=lambda run: run.config.training.steps)
        _line(axes[0], grid, by_steps, [r.config.training.steps for r in by_steps], fraction)
        _line(axes[1], grid, by_steps, [gradient_samples(r) for r in by_steps], fraction)
    axes[0].set(xlabel="optimizer steps", ylabel="accuracy, mean over targets", xscale="log")
    axes[1].set(xlabel="samples with a gradient", xscale="log")
    for axis, ticks in zip(axes, (STEP_TICKS, SAMPLE_TICKS), strict=True):
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
    axes[1].legend()
    return figure


def selection(numbers: Path) -> Figure | None:
    """Accuracy against the part of each batch that is kept, a line for each target."""
    grid, experiment = _grid("digits-selection", numbers)
    if grid is None:
        return None
    runs = [run for run in experiment.runs(experiment.targets[0], 0) if _only_rho(run)]
    runs.sort(key=lambda run: _fraction(run.config.hparams))
    figure, axes = plt.subplots(figsize=(5, 3.4))
    places = [_fraction(run.config.hparams) for run in runs]
    for target in (*experiment.targets, MEAN):
        seeds = [_seeds(grid, run.row.name, target) for run in runs]
        axes.plot(
            places, [np.mean(values) for values in seeds], marker="o", label=target or "mean",
            linewidth=2 if target == MEAN else 0.8, color="black" if target == MEAN else None,
        )  # fmt: skip
        if target == MEAN:
            for place, values in zip(places, seeds, strict=True):
                axes.plot([place] * len(values), values, "_", color="black", markersize=10)
    axes.set(xlabel="ρ, the part of a batch that is kept", ylabel="accuracy on the target")
    axes.legend(fontsize="small")
    return figure


def wrong_labels(numbers: Path) -> Figure | None:
    """Of what is kept the part with a wrong label, beside the accuracy, with flipped labels."""
    grid, experiment = _grid("flipped-labels", numbers)
    known = found.read_measures(numbers / "selected.csv")
    shares: dict[str, list[float]] = defaultdict(list)
    for (name, row, *_), values in known.items():
        if name == experiment.name:
            shares[row].append(values["flipped kept"])
    rows = [row.name for row in experiment.rows if row.name in shares]
    if grid is None or not rows:
        return None
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.4 * len(rows) + 1), sharey=True)
    axes[0].barh(rows, [sum(shares[row]) / len(shares[row]) for row in rows])
    axes[0].axvline(0.1, color="black", linewidth=0.8)
    axes[0].set(xlabel="wrong labels, of what is kept (line: of all)")
    for row in rows:
        values = _seeds(grid, row, MEAN)
        axes[1].plot(values, [row] * len(values), "|", color="black", markersize=10)
        axes[1].plot([np.mean(values)], [row], "o", color="C0")
    axes[1].set(xlabel="accuracy, mean over targets (lines: seeds)")
    axes[1].locator_params(axis="x", nbins=5)
    axes[0].invert_yaxis()
    return figure


def gradient_samples(run: Run) -> int:
    """How many samples a run of SCMD computes gradients of, in all its steps."""
    training, hparams = run.config.training, run.config.hparams
    assert isinstance(hparams, SCMDConfig)
    selection = hparams.selection
    selecting = 1 - selection.warmup - selection.last_fraction if selection.rule != "all" else 0.0
    batch = training.batch_per_domain * 3
    return round(training.steps * batch * (1 - selecting * (1 - selection.fraction)))


def _only_rho(run: Run) -> bool:
    """Whether it is SCMD with the preset's other settings."""
    hparams = run.config.hparams
    if not isinstance(hparams, SCMDConfig) or hparams.selection.scope != "batch":
        return False
    return hparams.selection.rule == "all" or (
        (hparams.selection.warmup, hparams.selection.last_fraction) == (0.4, 0.25)
    )


def _fraction(hparams: MethodConfig) -> float:
    assert isinstance(hparams, SCMDConfig)
    return 1.0 if hparams.selection.rule == "all" else hparams.selection.fraction


def _line(axes: Axes, grid: Grid, runs: list[Run], places: list[int], fraction: float) -> None:
    means = [np.mean(_seeds(grid, run.row.name, MEAN)) for run in runs]
    axes.plot(places, means, marker="o", label=f"ρ {fraction:g}")


def _seeds(grid: Grid, row: str, target: str) -> list[float]:
    """A row's accuracies, one per seed."""
    return list(grid.trials(row, target).values())


def _grid(name: str, numbers: Path) -> tuple[Grid | None, Experiment]:
    """The accuracies of an experiment; None where no seed has all."""
    experiment = load(name)
    there, _ = found.current(experiment, found.read(numbers / f"{name}.csv"))
    whole = complete(experiment, there)
    if not whole or len(whole) % (len(experiment.all_runs()) // experiment.seeds):
        return None, experiment
    return chosen(experiment, whole), experiment


FIGURES = {"selection.png": selection, "budget.png": budget, "wrong_labels.png": wrong_labels}


if __name__ == "__main__":
    tyro.cli(main)
