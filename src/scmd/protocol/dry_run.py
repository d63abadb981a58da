"""A plan and how long it should take, without doing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scmd.errors import ScmdError
from scmd.estimate import duration
from scmd.finished import read_object
from scmd.loop import estimate_run
from scmd.methods import METHODS
from scmd.protocol.plan import PlannedRun
from scmd.protocol.runner import DONE
from scmd.protocol.settings import FINE_TUNED


def print_plan(runs: Sequence[PlannedRun], out: Path, console: Console) -> None:
    """The runs by method, what is done, and an estimate of the rest.

    A method's seconds are those of its finished runs, or else of timed trial steps, without what
    runs of one process share: then the estimate is an upper bound, but for a teacher that has yet
    to be asked before the training.
    """
    console.print(f"{len(runs)} runs in {out}", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=SIMPLE)
    for name in ("method", "runs", "done", "seconds a run", "from"):
        table.add_column(name, justify="left" if name in ("method", "from") else "right")
    left = 0.0
    for label, count in Counter(run.label for run in runs).items():
        own = [run for run in runs if run.label == label]
        finished = [out / run.name / DONE for run in own if (out / run.name / DONE).exists()]
        if finished:
            seconds = float(np.mean([_seconds(done) for done in finished]))
            source = "finished runs"
        elif label == FINE_TUNED:
            seconds, source = 0.0, "not timed before one is finished"
        elif own[0].reference:
            seconds, source = 0.0, "no training"
        else:
            seconds, source = estimate_run(own[0].config), "timed steps"
        left += seconds * (count - len(finished))
        table.add_row(label, str(count), str(len(finished)), f"{seconds:.0f}", source)
    console.print(table)
    students = [run.config for run in runs if METHODS[run.config.method].needs_teacher]
    if any(student.teacher.view != "augmented" for student in students):
        console.print("besides: asking the teacher about what the cache does not have yet")
    targets = ", ".join(sorted({run.target for run in runs}))
    trials, draws = len({run.trial for run in runs}), len({run.draw for run in runs})
    console.print(
        f"targets: {targets}; trials: {trials}; draws: {draws}\nleft: about {duration(left)}",
        markup=False,
        highlight=False,
    )


def _seconds(done: Path) -> float:
    seconds = read_object(done).get("seconds")
    if not isinstance(seconds, int | float):
        raise ScmdError(
            f"{done} is damaged: it says no number of seconds. Remove it, and scmd protocol looks "
            "at the run again"
        )
    return seconds
