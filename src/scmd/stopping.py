"""Stopping when asked to: the step that is being taken is finished first, and checkpointed."""

from __future__ import annotations

import atexit
import multiprocessing.util  # whose end is registered before ours
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from scmd.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


class GivenUpError(Exception):
    """Raised within what can be given up half-way and done again."""


class Stop:
    """Whether somebody asked to stop: Ctrl-C (SIGINT), or SIGTERM. Once more acts as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take the signals while inside; outside the main thread, where none arrive, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}

        def take(number: int, frame: Any) -> None:
            self.signal = number
            for one, handler in before.items():
                signal.signal(one, handler)
            os.write(2, b"\nstopping after this step; once more to stop at once\n")

        for number in SIGNALS:
            signal.signal(number, take)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until somebody asks to stop.

        Raises:
            GivenUpError: Somebody did.
        """
        for item in items:
            if self.asked:
                raise GivenUpError
            yield item

    def leave(self, what: str) -> None:
        """Raise Stopped with what is to be said."""
        raise Stopped(what, self.signal or signal.SIGTERM)


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the program, so that what is half-written is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        raise Stopped("stopped", number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def workers_deaf() -> Iterator[None]:
    """Let processes that are forked inside never hear the signals, from their first moment on.

    A terminal or a job's end signals all processes of a group, and a worker that dies of it takes
    the step with it. Their parent, which hears them, tells its workers when to leave. Those that
    it has not told when it ends are killed then: they would not hear multiprocessing, which
    terminates them and waits.
    """
    others = set(multiprocessing.active_children())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _deaf.update(set(multiprocessing.active_children()) - others)


_deaf: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


@atexit.register  # after multiprocessing's own, which is therefore called later
def _end_the_deaf() -> None:
    living = [process for process in multiprocessing.active_children() if process in _deaf]
    if living:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's calls a killed worker an error
    for process in living:
        process.kill()


Watch = Callable[[Iterable[Any]], Iterator[Any]]
"""What gives up on a loop: ``Stop.watch``, or ``iter``, which never does."""
