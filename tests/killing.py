"""Runs in processes of their own, to be killed; and what has to be the same afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import torch
from rich.console import Console

from scmd.checkpoint import load_checkpoint
from scmd.config import RunConfig
from scmd.loop import train

# Autograd decides at its first use whether forked processes may use it, too: yes, as long as
# torch.export has not been used before. So it is used here, before any test is.
torch.ones((), requires_grad=True).backward()

FILE_OPERATIONS = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir")
LEFT = 3
"""Exit status of a child that was asked to stop and did."""
LIMIT = 120.0
"""Seconds after which a child that was not killed is called hanging."""


class Child:
    """A function in forked processes, which need not import anything again.

    Args:
        work: What they do.
        processes: Of one run; more than one find each other as torchrun's do.
        operations: Kill the first of them just before this file operation in ``folder``, from 0.
        folder: Whose file operations are counted.
    """

    def __init__(
        self,
        work: Callable[[], object],
        processes: int = 1,
        operations: int | None = None,
        folder: Path | None = None,
    ) -> None:
        port = _free_port()
        self.began = time.perf_counter()
        self.pids = [
            self._fork(work, rank, processes, port, operations, folder) for rank in range(processes)
        ]

    def _fork(
        self,
        work: Callable[[], object],
        rank: int,
        processes: int,
        port: int,
        operations: int | None,
        folder: Path | None,
    ) -> int:
        pid = os.fork()
        if pid:
            with suppress(ProcessLookupError, PermissionError):
                os.setpgid(pid, pid)  # both do it: neither knows who is first
            return pid
        status = 1
        try:
            os.setpgid(0, 0)
            # Whatever the tests before this one have left there.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if processes > 1:
                world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
                where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ.update({k: str(v) for k, v in {**world, **where}.items()})
            if operations is not None and rank == 0:
                _die_before(operations, folder)
            work()
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.__stderr__, flush=True)
            status = LEFT if isinstance(error, KeyboardInterrupt) else 1
        finally:
            os._exit(status)

    def kill(self, after: float) -> bool:
        """Kill all of them ``after`` some seconds; returns whether they had not ended before."""
        while time.perf_counter() < self.began + after:
            if self._ended():
                return False
            time.sleep(0.005)
        return self.signal(signal.SIGKILL, workers=False)

    def signal(self, number: int, workers: bool = True) -> bool:
        """Send a signal to all, and wait; returns whether somebody was there to get it.

        Args:
            number: The signal's.
            workers: Send it to their workers, too, as a terminal does.
        """
        alive = not self._ended()
        for pid in self.pids:
            if _reap(pid) is None:
                (os.killpg if workers else os.kill)(pid, number)
        self.wait()
        return alive

    def wait(self) -> list[int]:
        """Their exit statuses; negative: the signal that killed them."""
        deadline = time.perf_counter() + LIMIT
        statuses = []
        for pid in self.pids:
            while (found := _reap(pid)) is None:
                if any(status < 0 for status in statuses):  # the others wait for the killed one
                    os.kill(pid, signal.SIGKILL)
                assert time.perf_counter() < deadline, "a run hangs"
                time.sleep(0.005)
            statuses.append(found)
        return statuses

    def _ended(self) -> bool:
        return all(_reap(pid) is not None for pid in self.pids)


_REAPED: dict[int, int] = {}


def _reap(pid: int) -> int | None:
    if pid not in _REAPED:
        found, status = os.waitpid(pid, os.WNOHANG)
        if not found:
            return None
        _REAPED[pid] = os.waitstatus_to_exitcode(status)
    return _REAPED[pid]


def _die_before(operation: int, folder: Path | None) -> None:
    """Kill this process, with SIGKILL, before a file operation."""
    left = operation
    me = os.getpid()

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event not in FILE_OPERATIONS or os.getpid() != me:
            return
        path = arguments[0]
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(str(folder)):
            return
        if event == "open" and not _writes(arguments):
            return
        if left == 0:
            os.kill(me, signal.SIGKILL)
        left -= 1

    sys.addaudithook(count)


def _writes(arguments: tuple) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def training(config: RunConfig, out: Path, cache: Path) -> Callable[[], object]:
    """A run that goes on where it was stopped, with a cache of its own."""

    def work() -> None:
        os.environ["SCMD_CACHE"] = str(cache)
        train(config, out, resume=out.exists(), console=Console(quiet=True))

    return work


def outcome(run: Path) -> dict[str, object]:
    """All that a stop must not change, by name: files to the byte, and the last checkpoint."""
    names = ("model.safetensors", "model.json", "metrics.jsonl", "config.toml", "samples.parquet")
    files: dict[str, object] = {name: (run / name).read_bytes() for name in names}
    selection = run / "selection.parquet"
    if selection.exists():
        files["selection.parquet"] = selection.read_bytes()
        steps = pq.read_table(selection)["step"].to_pylist()
        assert steps == sorted(steps)
    state = load_checkpoint(run / "checkpoints")
    assert state is not None
    for part in ("method", "average"):
        files |= {f"{part}.{name}": v.numpy().tobytes() for name, v in state[part].items()}
    summary = json.loads((run / "summary.json").read_text())
    files["summary"] = json.dumps({k: v for k, v in summary.items() if k in _SAME})
    left = sorted(path.name for path in run.rglob("*") if path.name.endswith(".aside"))
    assert not left, left
    files["files"] = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
    return files


_SAME = ("method", "target", "sources", "seed", "model_selection", "results", "calibration")


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names of what is not the same."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
