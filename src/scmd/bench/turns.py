"""Sides that take turns, each in a process of its own that is new for every turn.

Two sides at once would need the memory of both. A new process has its own first touch of memory,
its own layout and its own luck, so that the spread over turns is that of users' runs.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from scmd.errors import ScmdError


class Turn(NamedTuple):
    """What one turn took."""

    seconds: float
    cpu_seconds: float
    """Of the process and of those that it started and that have ended."""


class Side:
    """A side at work in a process of its own."""

    def __init__(self, name: str, make: Callable[..., Any], arguments: tuple) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        self._process.start()
        theirs.close()
        self._answer()

    def turn(self, what: str, *arguments: Any, times: int = 1) -> Turn:
        """Let it call one of its methods some times; what one call took, on average."""
        self._ours.send((what, arguments, times))
        return self._answer()[0]

    def ask(self, what: str, *arguments: Any) -> Any:
        """What one of its methods returns."""
        self._ours.send((what, arguments, 1))
        return self._answer()[1]

    def peak_megabytes(self) -> float:
        """The most memory that the process had, in MB; of a GPU, where it used one."""
        self._ours.send(("", (), 0))
        return self._answer()

    def end(self) -> None:
        """End its process."""
        self._ours.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _answer(self) -> Any:
        try:
            found, answer = self._ours.recv()
        except EOFError as error:
            raise ScmdError(
                f"the benchmark's side {self.name!r} was killed, for want of memory perhaps. "
                "Lower --batch-per-domain"
            ) from error
        if not found:
            raise RuntimeError(f"the benchmark's side {self.name!r} failed:\n{answer}")
        return answer


@contextmanager
def side(name: str, make: Callable[..., Any], *arguments: Any) -> Iterator[Side]:
    """Start a side and end it in any case."""
    started = Side(name, make, arguments)
    try:
        yield started
    finally:
        started.end()


def _serve(pipe: Connection, make: Callable[..., Any], arguments: tuple) -> None:
    try:
        side = make(*arguments)
        pipe.send((True, None))
        while True:
            what, given, times = pipe.recv()
            done = _timed(getattr(side, what), given, times) if what else _peak_megabytes()
            pipe.send((True, done))
    except EOFError:
        return
    except Exception:
        pipe.send((False, traceback.format_exc()))


def _timed(call: Callable[..., Any], arguments: tuple, times: int) -> tuple[Turn, Any]:
    answer = None
    cpu, began = _cpu_seconds(), time.perf_counter()
    for _ in range(times):
        answer = call(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - began, _cpu_seconds() - cpu
    return Turn(seconds / times, cpu_seconds / times), answer


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in used)


def _peak_megabytes() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
