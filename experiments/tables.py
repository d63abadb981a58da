"""From the numbers of an experiment to its table."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from experiments.found import Found, current
from experiments.plan import ZERO_SHOT, Experiment
from scmd.protocol.formats import Table, number
from scmd.protocol.statistics import Estimate, holm
from scmd.protocol.tables import MEAN, Grid, compare, gap_closed


def table(experiment: Experiment, lines: Sequence[Found]) -> Table:
    """Accuracies, the gap closed, and paired tests against each baseline."""
    there, missing = current(experiment, lines)
    grid = chosen(experiment, complete(experiment, there))
    students = without_references(experiment, grid)
    header = ["", *experiment.targets, "mean"]
    erm_known = any(label == experiment.erm for label in grid.labels)
    if erm_known:
        header.append("gap closed")
    tests = {
        baseline: {test.label: test for test in compare(students, baseline)}
        for baseline in experiment.baselines
        if baseline in grid.labels
    }
    for baseline in tests:
        header += [f"− {baseline}", "p"]
    rows = []
    for row in experiment.rows:
        if row.name not in grid.labels:
            continue
        cells = [with_half(grid.estimate(row.name, t)) for t in (*experiment.targets, MEAN)]
        if erm_known:
            ends = (row.erm or experiment.erm, row.teacher or experiment.teacher)
            known = row.name not in ends and all(end in grid.labels for end in ends)
            gap = gap_closed(grid, row.name, MEAN, *ends) if known else math.nan
            cells.append(number(gap, sign=True) if known else "")
        for found in tests.values():
            test = found.get(row.name)
            cells += [difference(test.difference), p_value(test.p_holm)] if test else ["", ""]
        rows.append([row.name, *cells])
    return Table(experiment.title, header, rows, [*notes(experiment, grid, len(missing))])


def pairs(experiment: Experiment, lines: Sequence[Found]) -> Table | None:
    """Paired tests of one row against another; None where none are asked for."""
    there, _ = current(experiment, lines)
    grid = chosen(experiment, complete(experiment, there))
    known = [pair for pair in experiment.pairs if set(pair) <= set(grid.labels)]
    if not known:
        return None
    tests = [compare(Grid(pair, grid.targets, grid.accuracy), pair[1])[0] for pair in known]
    rows = [
        [f"{first} − {second}", difference(test.difference), p_value(p)]
        for (first, second), test, p in zip(
            known, tests, holm([test.p for test in tests]), strict=True
        )
    ]
    note = (
        "Differences in percentage points with their 95 % interval, paired by target and seed; p "
        "by paired t-test after Holm's correction for these pairs."
    )
    return Table(f"{experiment.title}: pairs", ["", "difference", "p"], rows, [note])


def over_domains(experiment: Experiment, lines: Sequence[Found]) -> Table | None:
    """The differences with a held-out domain as the unit; None where it is not asked for.

    Pairs of target and seed share the target's images, so that their interval says little about
    other domains. That over the few domains there are is wide, and is the honest one for that.
    """
    if not experiment.over_domains:
        return None
    there, _ = current(experiment, lines)
    grid = without_references(experiment, chosen(experiment, complete(experiment, there)))
    means = {
        (label, target, 0): estimate.mean
        for label in grid.labels
        for target in grid.targets
        if (estimate := grid.estimate(label, target))
    }
    domains = Grid(grid.labels, grid.targets, means)
    tests = [
        {test.label: difference(test.difference) for test in compare(domains, baseline)}
        for baseline in experiment.baselines
        if baseline in grid.labels
    ]
    header = [
        "",
        *(f"− {baseline}" for baseline in experiment.baselines if baseline in grid.labels),
    ]
    rows = [[label, *(found.get(label, "") for found in tests)] for label in grid.labels]
    note = (
        "Differences in percentage points of the means over seeds, with a 95 % interval by "
        f"Student's t over the {len(grid.targets)} held-out domains."
    )
    return Table(f"{experiment.title}: over domains", header, rows, [note])


def complete(experiment: Experiment, there: Sequence[Found]) -> list[Found]:
    """The lines of those seeds that have all runs; where no seed has, all lines."""
    wanted = len(experiment.all_runs()) // experiment.seeds
    full = [s for s in range(experiment.seeds) if sum(x.seed == s for x in there) == wanted]
    return [line for line in there if line.seed in full or not full]


def without_references(experiment: Experiment, grid: Grid) -> Grid:
    """The students alone: a teacher is not tested, and does not count for Holm's correction."""
    own = {row.name for row in experiment.rows if row.method != ZERO_SHOT}
    labels = tuple(label for label in grid.labels if label in own)
    accuracy = {key: value for key, value in grid.accuracy.items() if key[0] in own}
    return Grid(labels, grid.targets, accuracy)


def chosen(experiment: Experiment, there: Sequence[Found]) -> Grid:
    """Of a row's choices the one with the best mean holdout over seeds, for each target."""
    holdouts: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in there:
        holdouts[line.row, line.target][line.choice].append(line.holdout)
    best = {
        key: max(sorted(choices), key=lambda choice: float(np.mean(choices[choice])))
        for key, choices in holdouts.items()
    }
    accuracy = {
        (line.row, line.target, line.seed): line.accuracy
        for line in there
        if line.choice == best[line.row, line.target]
    }
    labels = [row.name for row in experiment.rows if any(row.name == label for label, *_ in best)]
    return Grid(tuple(labels), experiment.targets, accuracy)


def choices_made(experiment: Experiment, lines: Sequence[Found]) -> Table | None:
    """The mean holdout of every choice; None where no row has any."""
    there, _ = current(experiment, lines)
    rows = []
    for row in experiment.rows:
        if len(row.choices) < 2:
            continue
        for target in experiment.targets:
            found: dict[int, list[float]] = defaultdict(list)
            for line in there:
                if (line.row, line.target) == (row.name, target):
                    found[line.choice].append(line.holdout)
            means = [np.mean(found[c]) if found[c] else math.nan for c in range(len(row.choices))]
            rows.append([row.name, target, *(f"{mean:.3f}" for mean in means)])
    if not rows:
        return None
    width = max(len(row) for row in rows)
    header = ["", "target", *(f"choice {number}" for number in range(1, width - 1))]
    title = f"{experiment.title}: holdout of the sources, mean over seeds"
    return Table(title, header, [row + [""] * (width - len(row)) for row in rows])


def notes(experiment: Experiment, grid: Grid, missing: int) -> list[str]:
    """What the cells are, and what is not there."""
    seeds = sorted({trial for _, _, trial in grid.accuracy})
    lines = [
        f"Accuracy on the held-out domain, seeds {', '.join(map(str, seeds))}; ±: half of a 95 % "
        "interval over seeds (Student's t)."
    ]
    if experiment.baselines:
        lines[0] += (
            " Differences in percentage points with their 95 % interval, paired by target and "
            "seed; p by paired t-test after Holm's correction for the rows of the table."
        )
    if missing:
        lines.append(f"MISSING: {missing} of {len(experiment.all_runs())} runs.")
    return [*lines, *experiment.say]


def with_half(estimate: Estimate | None) -> str:
    """``0.743 ± 0.012``, half of a 95 % interval."""
    if estimate is None:
        return "–"
    if math.isnan(estimate.low) or estimate.high - estimate.low < 1e-9:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} ± {estimate.high - estimate.mean:.3f}"


def difference(estimate: Estimate) -> str:
    """``+1.2 ± 0.8`` percentage points, half of a 95 % interval."""
    if math.isnan(estimate.low):
        return f"{100 * estimate.mean:+.1f}"
    return f"{100 * estimate.mean:+.1f} ± {100 * (estimate.high - estimate.mean):.1f}"


def p_value(p: float) -> str:
    """Three digits, or what it is below."""
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
