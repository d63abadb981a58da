"""What becomes of a comparison's runs, and what is said about it while they are done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn, TimeElapsedColumn

from scmd.estimate import duration
from scmd.protocol.plan import PlannedRun

SHOWN = 8
"""As many workers have a line of their own on a terminal."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run that was taken up."""

    kind: Literal["done", "held", "broken"]
    """held: another process is at it."""
    said: str
    """Of a run that is done, its accuracy on the target; else the reason."""
    seconds: float = 0.0
    """How long it took."""
    warnings: tuple[str, ...] = ()
    """What was warned of meanwhile, where that was not said at once."""


class Report:
    """Says a line for every run that ends, and remembers which broke.

    Args:
        console: Where the lines go.
        planned: All runs of the plan.
        left: Those of them that are to be done.
    """

    def __init__(self, console: Console, planned: int, left: int) -> None:
        self.console = console
        self.left, self.number = left, 0
        self.broken: list[tuple[str, str]] = []
        """Per run that broke, its name and why."""
        self._warned: set[str] = set()
        self._began = time.perf_counter()
        self._bar: Progress | None = None
        self._count = TaskID(0)
        self._lines: dict[int, TaskID] = {}
        self._at_work = 0
        self._say(f"{planned} runs, {planned - left} of them done already")

    def ended(self, run: PlannedRun, outcome: Outcome) -> None:
        """A run is done, or broken for good."""
        self.number += 1
        if outcome.kind == "broken":
            self.broken.append((run.name, outcome.said))
        for warning in outcome.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._say(f"warning: {warning}")
        passed = time.perf_counter() - self._began
        rest = passed / self.number * (self.left - self.number)
        self._say(
            f"[{self.number}/{self.left}] {what(run)}: {outcome.said} ({outcome.seconds:.0f} s; "
            f"about {duration(rest)} left)"
        )
        self._show()

    def waiting(self, runs: int) -> None:
        """All runs that are left are held by other processes."""
        self._say(f"waiting for {runs} runs that other processes are at")

    def lost(self, run: PlannedRun, why: str) -> None:
        """A run's worker is gone, and the run is taken up again."""
        self._say(f"{what(run)}: {why}; it goes on elsewhere")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show who is at what, on a terminal."""
        columns = (TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        terminal = self.console.is_terminal
        with Progress(
            *columns,
            console=self.console,
            transient=True,
            disable=not terminal,
            refresh_per_second=2,
        ) as bar:
            self._bar, self._count = bar, bar.add_task("")
            try:
                self._show()
                yield
            finally:
                self._bar = None

    def at(self, worker: int, run: PlannedRun | None) -> None:
        """A worker takes up a run, or has none any more."""
        line = self._lines.pop(worker, None)
        self._at_work += (run is not None) - (line is not None)
        if self._bar is None:
            if run is not None:
                self._lines[worker] = TaskID(0)
            return
        if line is not None:
            self._bar.remove_task(line)
        if run is not None:
            shown = len(self._lines) < SHOWN
            line = self._bar.add_task(f"{worker + 1:>3}  {what(run)}", visible=shown)
            self._lines[worker] = line
        self._show()

    def _show(self) -> None:
        if self._bar is not None:
            done = f"{self.number} of {self.left} runs done, {self._at_work} at work"
            self._bar.update(self._count, description=done)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def what(run: PlannedRun) -> str:
    """A run, in words."""
    also = "".join(f"+{domain}" for domain in run.config.data.also_held_out)
    return f"{run.label}, target {run.target}{also}, draw {run.draw}, trial {run.trial}"
