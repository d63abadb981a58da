"""Runs in several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

import torch

from scmd.protocol.elsewhere import (
    THREADS_VARIABLE,
    attempt_elsewhere,
    shared_by,
    threads_of_each,
)
from scmd.protocol.outcomes import Outcome
from scmd.protocol.plan import PlannedRun
from scmd.protocol.sweep import Event
from scmd.stopping import sigterm_as_exit

PATIENCE = 60.0
"""Seconds that a process has to end after it was asked: it finishes its step and saves it."""
READY = "ready"


@dataclass(frozen=True)
class _Member:
    process: BaseProcess
    connection: Connection
    place: int
    """Which part of the machine is its, from 0."""
    said: Path
    """What it wrote to its standard output and error."""


class LocalCrew:
    """A number of processes, each with its part of the processors, memory and GPUs.

    A context manager: on leaving, the processes end. If something was raised, they are asked to
    stop, which they do after a checkpoint; those that do not are killed.

    Args:
        jobs: How many.
        out: The comparison's folder.
    """

    def __init__(self, jobs: int, out: Path) -> None:
        self.jobs, self.out = jobs, out
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = range(torch.cuda.device_count())
        self._gpus = given.split(",") if given and count else [str(number) for number in count]
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])  # imported once, for all processes
        self._members: dict[int, _Member] = {}
        self._hired = 0
        self._notes = tempfile.TemporaryDirectory(prefix="scmd-jobs-")

    def __enter__(self) -> LocalCrew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                for member in self._members.values():
                    _send(member.connection, None)
            else:
                self._ask_to_stop()
            until = time.monotonic() + PATIENCE
            for member in self._members.values():
                member.process.join(max(0.0, until - time.monotonic()))
        finally:  # asked once more, or out of patience
            for member in self._members.values():
                member.process.kill()
                member.process.join()
            self._notes.cleanup()

    def _ask_to_stop(self) -> None:
        alive = [m.process for m in self._members.values() if m.process.is_alive()]
        if alive:
            print(
                f"stopping {len(alive)} jobs after their steps; once more to stop at once",
                file=sys.stderr,
            )
        for process in alive:
            process.terminate()

    def size(self) -> int:
        """How many processes there are to be."""
        return self.jobs

    def hire(self) -> int:
        """Start a process."""
        worker, self._hired = self._hired, self._hired + 1
        ours, theirs = self._context.Pipe()
        said = Path(self._notes.name) / str(worker)
        said.touch()  # it may end before it says anything
        taken = {member.place for member in self._members.values()}
        place = next(place for place in range(self.jobs) if place not in taken)
        gpu = self._gpus[place % len(self._gpus)] if self._gpus else None
        process = self._context.Process(
            target=_work, args=(theirs, self.out.resolve(), self.jobs, gpu, said)
        )
        process.start()
        theirs.close()
        self._members[worker] = _Member(process, ours, place, said)
        return worker

    def give(self, worker: int, run: PlannedRun) -> None:
        """Send a process a run; if it is gone, ``wait`` will say so."""
        _send(self._members[worker].connection, run)

    def wait(self, seconds: float) -> list[Event]:
        """What the processes said, and which of them have ended."""
        found: list[Event] = []
        heard = {m.connection: worker for worker, m in self._members.items()}
        ended = {m.process.sentinel: worker for worker, m in self._members.items()}
        ready = wait([*heard, *ended], seconds)
        for worker in sorted({heard.get(r, ended.get(r)) for r in ready}):  # type: ignore[arg-type, call-overload]
            found += self._hear(worker)
        return found

    def _hear(self, worker: int) -> list[Event]:
        member = self._members[worker]
        gone = not member.process.is_alive()  # first: what it said before it ended is heard
        try:
            if member.connection.poll():
                said = member.connection.recv()
                kind = "ready" if said == READY else "ended"
                return [Event(kind, worker, said if isinstance(said, Outcome) else None)]
        except (EOFError, OSError):
            member.process.join(PATIENCE)
            gone = True
        if not gone:
            return []
        del self._members[worker]
        return [Event("lost", worker, why=_why(member))]


def _send(connection: Connection, what: PlannedRun | None) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # its process has ended
        connection.send(what)


def _why(member: _Member) -> str:
    code = member.process.exitcode or 0
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    lines = member.said.read_text(errors="replace").strip().splitlines() if code >= 0 else []
    return f"its process was ended {how}" + (f": {lines[-1]}" if lines else "")


def _work(connection: Connection, out: Path, jobs: int, gpu: str | None, said: Path) -> None:
    """What a process does: run after run, until it is told None or to stop."""
    _leave_terminal(said)
    stop_with_parent()
    _take_part(jobs, gpu)
    shared = shared_by(jobs)
    try:
        with sigterm_as_exit():
            connection.send(READY)
            while (run := connection.recv()) is not None:
                connection.send(attempt_elsewhere(run, out / run.name, shared))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        pass  # Stopped is one of the first; the other two say that the parent is gone


def _leave_terminal(said: Path) -> None:
    """Ctrl-C is for the parent, which shows what there is to be seen."""
    os.setsid()
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def stop_with_parent() -> None:
    """A parent that was killed can tell nobody to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _take_part(jobs: int, gpu: str | None) -> None:
    """Compute with this process's part of the processors, and on its GPU."""
    threads = threads_of_each(jobs)
    os.environ[THREADS_VARIABLE] = str(threads)
    torch.set_num_threads(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
