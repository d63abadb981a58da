"""Runs a plan, one run after the other, and can be stopped and started again at any moment.

Each run is claimed by the lock of its folder, so that several processes, and several commands in
the same folder, never do one twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from scmd.cache import Shared
from scmd.errors import ScmdError
from scmd.files import locked, write_json
from scmd.finished import read_plan
from scmd.loop import train
from scmd.protocol.outcomes import Outcome, Report
from scmd.protocol.plan import PlannedRun
from scmd.protocol.references import measure_reference
from scmd.run_folder import CONFIG, HeldError, held

PLAN, DONE, BROKEN = "plan.json", "done", "broken.json"
ATTEMPTS = 2
LOOK_AGAIN = 1.0
"""Seconds after which one looks again at a run that another process holds."""


def run_plan(runs: Sequence[PlannedRun], out: Path, console: Console) -> list[tuple[str, str]]:
    """Do what is not done yet; a broken run is tried once more, then left for the end's report.

    What another process is at comes last: it is waited for, and taken over if that process ends.

    Args:
        runs: The plan.
        out: The comparison's folder: ``plan.json``, and a folder for every run.
        console: Where a line for every run goes.

    Returns:
        Per run that broke, its name and why.
    """
    remember(runs, out)
    left = deque(unfinished(runs, out))
    report = Report(console, len(runs), len(left))
    shared = Shared()
    held_ones = 0
    while left:
        run = left.popleft()
        outcome = attempt(run, out / run.name, shared)
        if outcome.kind != "held":
            report.ended(run, outcome)
            held_ones = 0
            continue
        left.append(run)
        held_ones += 1
        if held_ones == len(left):
            report.waiting(len(left))
        if held_ones >= len(left):
            time.sleep(LOOK_AGAIN)
    return report.broken


def unfinished(runs: Sequence[PlannedRun], out: Path) -> list[PlannedRun]:
    """The runs that are not done, in their order."""
    return [run for run in runs if not (out / run.name / DONE).exists()]


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold what a comparison has one of, its ``plan.json`` and its soups; others wait.

    Raises:
        ScmdError: The folder cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScmdError(f"{out} cannot be made: {error.strerror}. Choose another --out") from error
    try:
        with locked(out / ".lock", lambda: None):
            yield
    except PermissionError as error:
        raise ScmdError(
            f"{out} cannot be written: {error.strerror}. Choose another --out"
        ) from error


def remember(runs: Sequence[PlannedRun], out: Path) -> None:
    """Add runs to the folder's ``plan.json``, which says what each of its folders is."""
    with alone(out):
        known = read_plan(out / PLAN) if (out / PLAN).exists() else {}
        known |= {
            run.name: {
                "label": run.label,
                "method": run.config.method,
                "target": run.target,
                "also_held_out": list(run.config.data.also_held_out),
                "draw": run.draw,
                "drawn": dict(run.drawn),
                "trial": run.trial,
            }
            for run in runs
        }
        write_json(out / PLAN, known)


def attempt(run: PlannedRun, folder: Path, shared: Shared) -> Outcome:
    """Do a run, unless another process is at it or has done it."""
    began = time.perf_counter()
    try:
        with held(folder):
            if (folder / DONE).exists():
                return Outcome("done", "done by another process")
            kind, said = _repeated(run, folder, shared)
    except HeldError as error:
        return Outcome("held", str(error))
    except ScmdError as error:
        kind, said = "broken", _reason(error)
    return Outcome(kind, said, time.perf_counter() - began)


def _repeated(run: PlannedRun, folder: Path, shared: Shared) -> tuple:
    """Do a run in a folder that is held; says its target accuracy, or why it broke."""
    quiet = Console(quiet=True)
    for last in [False] * (ATTEMPTS - 1) + [True]:
        try:
            if not (folder / CONFIG).exists():  # an attempt that ended before it began
                (folder / BROKEN).unlink(missing_ok=True)
            if run.reference:
                summary = measure_reference(run, folder, shared)
            else:
                summary = train(run.config, folder, True, quiet, shared)
            (folder / BROKEN).unlink(missing_ok=True)
            write_json(folder / DONE, {"seconds": summary["training_seconds"]})
            return "done", f"{summary['results'][run.target]['accuracy']:.3f}"
        except Exception as error:  # one broken run must not end the others
            if last:
                note_broken(folder, error)
                return "broken", _reason(error)
    raise AssertionError


def note_broken(folder: Path, error: Exception | str) -> None:
    """Leave a note of why a run broke, where that is possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / BROKEN, {"reason": _first_line(error)})
    except (OSError, ScmdError):
        pass  # the reason is said in any case


def _reason(error: Exception) -> str:
    return f"broken ({_first_line(error)})"


def _first_line(error: Exception | str) -> str:
    said = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return said.splitlines()[0]
