"""The reference and ours in turn, and what their times come to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from scmd.bench.ours import Ours
from scmd.bench.reference import Reference, phases_of
from scmd.bench.turns import Side, Turn, side
from scmd.bench.work import Work

Say = Callable[[str], None]
_ON_GPU = torch.cuda.is_available()
LOADED = 100 if _ON_GPU else 8
"""Batches that are loaded in a turn."""
STEPS, STEPS_THAT_WAIT = (50, 100) if _ON_GPU else (1, 4)
"""Steps of a turn: a GPU takes milliseconds for one, and a processor seconds."""


@dataclass
class Timings:
    """What one side's turns took, per round."""

    select: list[float] = field(default_factory=list)
    """Seconds of a step that selects."""
    whole: list[float] = field(default_factory=list)
    """Seconds of a step on the whole batch."""
    both: list[float] = field(default_factory=list)
    """Seconds of a mean step of a run that loads its batches meanwhile."""
    peak_megabytes: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Ratio:
    """How many times faster: the median over the rounds, and their range."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} – {self.high:.2f})"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """Of two sides' times in the same rounds."""
    found = [a / b for a, b in zip(slow, fast, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


def contestants(
    work: Work, more: bool, same_allocator: bool = True
) -> dict[str, tuple[Callable[[Work], object], Work]]:
    """The sides by name: what makes them, of which work."""
    found: dict[str, tuple[Callable[[Work], object], Work]] = {
        "reference": (Reference, work),
        "ours": (Ours, work),
    }
    if same_allocator:
        found["reference, same allocator"] = (Reference, replace(work, keep_memory=True))
    if more:
        fast = replace(work, precision="auto")
        found["ours, auto precision"] = (Ours, fast)
        found["ours, auto and cheap"] = (Ours, replace(fast, cheap=True))
    return found


def compare(
    work: Work,
    rounds: int,
    say: Say,
    more: bool = True,
    waiting: bool = False,
    same_allocator: bool = True,
) -> dict[str, Timings]:
    """Let the sides take turns.

    Args:
        work: What they train on what.
        rounds: How often each has its turn.
        say: Told what is going on.
        more: Let ours take part in the machine's best precision, too, and with its cheap options.
        waiting: Time steps that wait for the loader, too.
        same_allocator: Let the reference take part with our allocator's settings as well.

    Returns:
        The times of each side, by its name; of each in the same order of rounds.
    """
    names = contestants(work, more, same_allocator)
    found = {name: Timings() for name in names}
    for number in range(rounds):
        for name, (make, its_work) in names.items():
            say(f"{work.student}, round {number + 1} of {rounds}: {name}")
            with side(name, make, its_work) as at_work:
                _turn(at_work, its_work, found[name], waiting)
    return found


def compare_loaders(work: Work, rounds: int, say: Say) -> dict[str, list[Turn]]:
    """Let both sides load ``LOADED`` batches, with nothing else to do; return the turns of each."""
    found: dict[str, list[Turn]] = {"reference": [], "ours": []}
    makers: dict[str, Callable[[Work], object]] = {"reference": Reference, "ours": Ours}
    for number in range(rounds):
        for name, make in makers.items():
            say(f"loader, round {number + 1} of {rounds}: {name}")
            with side(name, make, work) as at_work:
                found[name].append(at_work.turn("load", LOADED))
    return found


def _turn(at_work: Side, work: Work, times: Timings, waiting: bool) -> None:
    # The first touches its memory for the first time, and on a GPU each chooses its kernels.
    for phase in ("whole", "select") if _ON_GPU else ("whole",):
        at_work.turn("step", phase, times=max(1, STEPS // 5))
    times.select.append(at_work.turn("step", "select", times=STEPS).seconds)
    times.whole.append(at_work.turn("step", "whole", times=STEPS).seconds)
    times.peak_megabytes.append(at_work.peak_megabytes())
    if waiting:
        run = phases_of(work, STEPS_THAT_WAIT)
        times.both.append(at_work.turn("run", run).seconds / STEPS_THAT_WAIT)


def mixed(work: Work, times: Timings) -> list[float]:
    """Seconds of a mean step of a run, per round."""
    return [work.mix(a, b) for a, b in zip(times.select, times.whole, strict=True)]
