"""A plan done by several workers at once: who does what, and what happens if one is lost.

A worker does one run at a time, and claims it by the lock of the run's folder. The runs of one
trial and target meet in one worker as far as possible, since they share batches (``scmd.cache``).
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from rich.console import Console

from scmd.errors import ScmdError
from scmd.protocol.outcomes import Outcome, Report
from scmd.protocol.plan import PlannedRun
from scmd.protocol.runner import DONE, LOOK_AGAIN, note_broken, remember, unfinished

TICK = 1.0
"""Seconds after which one looks around, whether anything has happened or not."""
FALSE_STARTS = 3
"""As many workers in a row may end before they have begun."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a worker."""

    kind: Literal["ready", "ended", "lost"]
    """ended: it has an ``outcome`` and is free again. lost: it is gone."""
    worker: int
    outcome: Outcome | None = None
    why: str = ""


class Crew(Protocol):
    """Workers of one sort."""

    def size(self) -> int:
        """How many there may be at present; at least one."""
        ...

    def hire(self) -> int:
        """Start one more, and return its number, which nobody else has had."""
        ...

    def give(self, worker: int, run: PlannedRun) -> None:
        """Let a worker that is free do a run."""
        ...

    def wait(self, seconds: float) -> list[Event]:
        """What has happened; nothing, if nothing did for so long."""
        ...


class Shares:
    """Which run a worker takes next.

    It takes one group of runs with the same batches after the other. Where no whole group is
    left, it takes half of the largest rest of another's.
    """

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self._groups = deque(deque(group) for _, group in itertools.groupby(runs, _batches_of))
        self._own: dict[int, deque[PlannedRun]] = {}

    def next(self, worker: int) -> PlannedRun | None:
        """The run that a worker is to do now; None where there is none."""
        own = self._own.get(worker)
        if not own:
            own = self._own[worker] = self._more()
        return own.popleft() if own else None

    def _more(self) -> deque[PlannedRun]:
        if self._groups:
            return self._groups.popleft()
        longest = max(self._own.values(), key=len, default=deque())
        taken = [longest.pop() for _ in range((len(longest) + 1) // 2)]
        return deque(reversed(taken))

    def back(self, run: PlannedRun) -> None:
        """A run that is to be done again, as soon as possible."""
        self._groups.appendleft(deque([run]))

    def leave(self, worker: int) -> None:
        """A worker is gone: others do what was its."""
        if rest := self._own.pop(worker, None):
            self._groups.appendleft(rest)


def _batches_of(run: PlannedRun) -> tuple:
    """What the runs have in common that see the same batches."""
    return run.trial, run.target, run.config.data.also_held_out


def sweep(
    runs: Sequence[PlannedRun], out: Path, crew: Crew, console: Console, retries: int
) -> list[tuple[str, str]]:
    """Do what is not done yet, by the workers of a crew.

    Args:
        runs: The plan.
        out: The comparison's folder.
        crew: The workers; started and ended elsewhere.
        console: Where progress goes.
        retries: How often a run whose worker was lost is taken up again.

    Returns:
        Per run that broke, its name and why.

    Raises:
        ScmdError: The folder cannot be written, or workers end before they have begun.
    """
    remember(runs, out)
    left = unfinished(runs, out)
    report = Report(console, len(runs), len(left))
    with report.live():
        _Sweep(left, out, crew, report, retries).run()
    return report.broken


class _Sweep:
    """A sweep in progress."""

    def __init__(
        self, runs: Sequence[PlannedRun], out: Path, crew: Crew, report: Report, retries: int
    ) -> None:
        self.out, self.crew, self.report, self.retries = out, crew, report, retries
        self.shares = Shares(runs)
        self.unfinished = len(runs)
        self.starting: set[int] = set()
        self.free: set[int] = set()
        self.at_work: dict[int, PlannedRun] = {}
        self.held: list[tuple[float, PlannedRun]] = []
        """Runs that another process is at, and when to look at them again."""
        self.losses: Counter[str] = Counter()
        self.false_starts = 0
        self.said_waiting = False

    def run(self) -> None:
        while self.unfinished:
            self._hire()
            for event in self.crew.wait(TICK):
                self._take(event)
            self._look_at_held()
            self._hand_out()

    def _hire(self) -> None:
        wanted = min(self.crew.size(), self.unfinished)
        for _ in range(wanted - len(self.starting | self.free) - len(self.at_work)):
            self.starting.add(self.crew.hire())

    def _take(self, event: Event) -> None:
        if event.kind == "ready":
            self.starting.discard(event.worker)
            self.free.add(event.worker)
            self.false_starts = 0
            return
        run = self.at_work.pop(event.worker, None)
        if run is not None:
            self.report.at(event.worker, None)
        if event.kind == "lost":
            self._lose(event, run)
        elif run is not None and event.outcome is not None:
            self.free.add(event.worker)
            if event.outcome.kind == "held":
                self.held.append((time.monotonic() + LOOK_AGAIN, run))
            else:
                self._end(run, event.outcome)

    def _lose(self, event: Event, run: PlannedRun | None) -> None:
        self.free.discard(event.worker)
        self.shares.leave(event.worker)
        if event.worker in self.starting:
            self.starting.discard(event.worker)
            self.false_starts += 1
            if self.false_starts == FALSE_STARTS:
                raise ScmdError(f"workers end before they have begun: {event.why}")
        if run is None:
            return
        self.losses[run.name] += 1
        if self.losses[run.name] <= self.retries:
            self.report.lost(run, event.why)
            self.shares.back(run)
            return
        note_broken(self.out / run.name, event.why)
        self._end(run, Outcome("broken", f"broken ({event.why})"))

    def _end(self, run: PlannedRun, outcome: Outcome) -> None:
        self.unfinished -= 1
        self.said_waiting = False
        self.report.ended(run, outcome)

    def _look_at_held(self) -> None:
        now = time.monotonic()
        for when, run in [item for item in self.held if item[0] <= now]:
            self.held.remove((when, run))
            if (self.out / run.name / DONE).exists():
                self._end(run, Outcome("done", "done by another process"))
            else:
                self.shares.back(run)
        if self.held and len(self.held) == self.unfinished and not self.said_waiting:
            self.report.waiting(len(self.held))
            self.said_waiting = True

    def _hand_out(self) -> None:
        for worker in sorted(self.free):
            run = self.shares.next(worker)
            if run is None:
                return
            self.free.discard(worker)
            self.at_work[worker] = run
            self.report.at(worker, run)
            self.crew.give(worker, run)
