"""What runs gave, in small files that are kept with the code: ``found/NAME.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from experiments.plan import Experiment, Run
from scmd.files import writing_aside
from scmd.store import exclusive


@dataclass(frozen=True, order=True)
class Found:
    """A run's numbers."""

    row: str
    choice: int
    target: str
    seed: int
    accuracy: float
    """On all of the target, of the chosen weights."""
    holdout: float
    """On the sources' holdout, mean over sources, which chose the weights."""
    step: int
    """Of the chosen weights."""
    seconds: float
    """In the loop, on a machine that had other things to do."""
    config: str
    """The digest of its configuration."""

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What it is the run of."""
        return self.row, self.choice, self.target, self.seed


def read(file: Path) -> list[Found]:
    """All lines of a file; none where there is no file."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            Found(
                line["row"], int(line["choice"]), line["target"], int(line["seed"]),
                float(line["accuracy"]), float(line["holdout"]), int(line["step"]),
                float(line["seconds"]), line["config"],
            )
            for line in csv.DictReader(lines)
        ]  # fmt: skip


def add(file: Path, new: Iterable[Found], lock: Path) -> None:
    """Put lines into a file, in the place of those of the same run; two processes may do so.

    Args:
        file: ``found/NAME.csv``.
        new: The lines.
        lock: A folder to hold meanwhile.
    """
    with exclusive(lock):
        lines = {line.key: line for line in (*read(file), *new)}
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(field.name for field in fields(Found))
        for line in sorted(lines.values()):
            values = astuple(line)
            rows.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in values)
        file.parent.mkdir(parents=True, exist_ok=True)
        with writing_aside(file) as aside:
            aside.write(text.getvalue().encode())


Key = tuple[str, str, str, int]
"""An experiment, a row, a target and a seed."""
Measures = dict[Key, dict[str, float]]
"""What else was measured of runs, by name."""
_KEY = ("experiment", "row", "target", "seed")


def read_measures(file: Path) -> Measures:
    """All lines of a file; none where there is no file."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        return {
            (line["experiment"], line["row"], line["target"], int(line["seed"])): {
                name: float(value) for name, value in line.items() if name not in _KEY
            }
            for line in csv.DictReader(lines)
        }


def write_measures(file: Path, known: Measures) -> None:
    """Write all lines, if there are any; each has the measures of the first."""
    if not known:
        return
    names = list(next(iter(known.values())))
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*_KEY, *names])
    for key, values in sorted(known.items()):
        rows.writerow([*key, *(f"{values[name]:.4f}" for name in names)])
    with writing_aside(file) as aside:
        aside.write(text.getvalue().encode())


def compared(before: Iterable[Found], after: Iterable[Found]) -> str:
    """How numbers that came anew are beside those of the same runs that were there, in words."""
    known = {(line.key, line.config): line.accuracy for line in before}
    steps = [
        abs(known[line.key, line.config] - line.accuracy)
        for line in after
        if (line.key, line.config) in known
    ]
    if not steps:
        return "nothing to compare with"
    # Files have six digits.
    other = sum(step > 1e-5 for step in steps)
    return f"{len(steps) - other} of {len(steps)} as kept, largest difference {max(steps):.3f}"


def same_runs(folder: Path) -> dict[tuple[str, str, int], Found]:
    """All lines in a folder, by settings, target and seed: some runs are of several experiments."""
    return {
        (line.config, line.target, line.seed): line
        for file in sorted(folder.glob("*-*.csv"))
        for line in read(file)
    }


def current(experiment: Experiment, lines: Iterable[Found]) -> tuple[list[Found], list[Run]]:
    """The lines that are of the experiment as its file is now, and the runs that are missing."""
    known = {(line.key, line.config): line for line in lines}
    there: list[Found] = []
    missing: list[Run] = []
    for run in experiment.all_runs():
        key = (run.row.name, run.choice, run.target, run.seed)
        line = known.get((key, run.digest))
        if line is None:
            missing.append(run)
        else:
            there.append(line)
    return there, missing
