"""Runs a plan, one run after the other, and can be stopped and started again at any moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from scmd.cache import Shared
from scmd.errors import ScmdError
from scmd.estimate import duration
from scmd.files import read_json, write_json
from scmd.loop import train
from scmd.protocol.plan import PlannedRun
from scmd.protocol.references import measure_reference
from scmd.run_folder import CONFIG

PLAN, DONE, BROKEN = "plan.json", "done", "broken.json"
ATTEMPTS = 2


def run_plan(runs: Sequence[PlannedRun], out: Path, console: Console) -> list[tuple[str, str]]:
    """Do what is not done yet; a broken run is tried once more, then left for the end's report.

    Args:
        runs: The plan.
        out: The comparison's folder: ``plan.json``, and a folder for every run.
        console: Where a line for every run goes.

    Returns:
        Per run that broke, its name and why.
    """
    remember(runs, out)
    shared = Shared()
    left = [run for run in runs if not (out / run.name / DONE).exists()]
    console.print(f"{len(runs)} runs, {len(runs) - len(left)} of them done already")
    broken: list[tuple[str, str]] = []
    began = time.perf_counter()
    for number, run in enumerate(left, 1):
        started = time.perf_counter()
        said = _attempt(run, out / run.name, shared)
        if said.startswith("broken"):
            broken.append((run.name, said))
        now = time.perf_counter()
        rest = (now - began) / number * (len(left) - number)
        console.print(
            f"[{number}/{len(left)}] {run.label}, target {run.target}, draw {run.draw}, trial "
            f"{run.trial}: {said} ({now - started:.0f} s; about {duration(rest)} left)",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return broken


def remember(runs: Sequence[PlannedRun], out: Path) -> None:
    """Add runs to the folder's ``plan.json``, which says what each of its folders is."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScmdError(f"{out} cannot be made: {error.strerror}. Choose another --out") from error
    known = read_json(out / PLAN) if (out / PLAN).exists() else {}
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


def _attempt(run: PlannedRun, folder: Path, shared: Shared) -> str:
    """Do a run; says its target accuracy, or why it broke."""
    quiet = Console(quiet=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _sweep(folder)
            if run.reference:
                summary = measure_reference(run, folder, shared)
            else:
                summary = train(run.config, folder, folder.exists(), quiet, shared)
            (folder / BROKEN).unlink(missing_ok=True)
            write_json(folder / DONE, {"seconds": summary["training_seconds"]})
            return f"{summary['results'][run.target]['accuracy']:.3f}"
        except Exception as error:  # one broken run must not end the others
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if attempt == ATTEMPTS:
                return _report(folder, reason)
    raise AssertionError


def _sweep(folder: Path) -> None:
    """Remove what an attempt left that ended before it wrote its configuration."""
    if not (folder / CONFIG).exists():
        for path in [folder / BROKEN, *folder.glob(f".{BROKEN}.*"), *folder.glob(f".{CONFIG}.*")]:
            path.unlink(missing_ok=True)


def _report(folder: Path, reason: str) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / BROKEN, {"reason": reason})
    except (OSError, ScmdError):
        pass  # the reason is said in any case
    return f"broken ({reason})"
