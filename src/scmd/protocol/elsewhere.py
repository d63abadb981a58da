"""A run in a process that is not the one that says how it went."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from scmd.cache import MOST_BYTES, Shared
from scmd.errors import ScmdWarning
from scmd.protocol.outcomes import Outcome
from scmd.protocol.plan import PlannedRun
from scmd.protocol.runner import attempt

THREADS_VARIABLE = "OMP_NUM_THREADS"


def attempt_elsewhere(run: PlannedRun, folder: Path, shared: Shared) -> Outcome:
    """As ``attempt``; what is warned of comes with the outcome."""
    with _heard() as said:
        outcome = attempt(run, folder, shared)
    return replace(outcome, warnings=tuple(dict.fromkeys(said)))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What is warned of, or logged as a warning, in the place of its being said."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logger = logging.getLogger("scmd")
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield said
        said += [str(w.message) for w in caught if issubclass(w.category, ScmdWarning)]
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagated


def processors() -> int:
    """Of this machine, those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of_each(workers: int) -> int:
    """How many threads each of so many processes computes with.

    ``$OMP_NUM_THREADS`` where it is set; else an equal part of the processors.
    """
    given = os.environ.get(THREADS_VARIABLE, "")
    return int(given) if given.isdigit() and int(given) else max(1, processors() // workers)


def shared_by(workers: int) -> Shared:
    """What the runs of one of so many processes on a machine share: its part of the memory."""
    return Shared(MOST_BYTES // workers)
