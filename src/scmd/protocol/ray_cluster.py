"""Runs on a Ray cluster: of this machine alone, or one that is running.

Each worker is an actor, which holds its processors and GPUs as long as there are runs, and does
one after the other. If its machine or process is lost, another takes the run up (``sweep``).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

from scmd.errors import ScmdError
from scmd.files import ASIDE, writing_aside
from scmd.methods import METHODS
from scmd.protocol.elsewhere import processors
from scmd.protocol.outcomes import Outcome
from scmd.protocol.plan import PlannedRun
from scmd.protocol.ray_worker import Place, RunWorker
from scmd.protocol.runner import alone, note_broken
from scmd.protocol.sent import unpack_run
from scmd.protocol.sweep import Event
from scmd.run_folder import HeldError

CONNECTING, ASKING = 5.0, 20.0
"""Seconds in which the head of a cluster has to answer: at all, and as one."""
OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory for a cluster of this machine alone, through which little goes."""
COMPARISON = ".comparison"
"""A file in a comparison's folder that says what it is called on other machines."""
LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path."""
SOCKET = "/session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store.1"
"""How Ray calls one, below its folder."""


@dataclass(frozen=True)
class Resources:
    """What each run has of a cluster; None: what is usual."""

    cpus: int | None = None
    gpus: float | None = None


class RayCrew:
    """Actors on a cluster, as many as there is room for. A context manager: on leaving they end.

    Args:
        runs: The plan.
        out: The comparison's folder.
        address: Of a cluster that is running; None: one is started here, and ended.
        resources: Of each run.
    """

    def __init__(
        self, runs: Sequence[PlannedRun], out: Path, address: str | None, resources: Resources
    ) -> None:
        self.out, self.address, self.resources = out.resolve(), address, resources
        self.loaders = max((run.config.training.workers for run in runs), default=0)
        self._folder: tempfile.TemporaryDirectory | None = None
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, tuple[int, PlannedRun | None]] = {}
        """Per answer that is due, the worker and its run."""
        self._hired = 0

    def __enter__(self) -> RayCrew:
        try:
            import ray
            from ray import cloudpickle, exceptions
        except ImportError as error:
            raise ScmdError("--ray needs the package ray: pip install 'scmd[ray]'") from error
        self._ray: Any = ray
        self._lost, self._by_value = exceptions.RayError, cloudpickle.register_pickle_by_value
        with alone(self.out):
            self._probe = self.out / f".probe-{uuid.uuid4().hex}{ASIDE}"
            self._probe.write_text(self._probe.name)
            self.comparison = _comparison(self.out)
        try:
            self._connect()
            self.cpus, self.gpus = self._shares()
            self._actor: Any = self._ray.remote(
                num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0, max_task_retries=0
            )(RunWorker)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._ray.shutdown()
        finally:
            self._probe.unlink(missing_ok=True)
            if self._folder is not None:
                self._folder.cleanup()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            self._folder = _short_folder()
            quiet |= {
                "address": "local", "include_dashboard": False, "num_cpus": processors(),
                "object_store_memory": OBJECT_STORE, "_temp_dir": self._folder.name,
            }  # fmt: skip
        else:
            check_address(self.address)
            quiet["address"] = self.address
        try:
            self._ray.init(**quiet)
        except (Exception, SystemExit) as error:  # Ray raises all sorts, and leaves
            where = f"--ray-address {self.address}" if self.address else "--ray"
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ScmdError(f"{where}: there is no cluster to be had: {said[0]}") from error

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _shares(self) -> tuple[int, float]:
        """CPUs and GPUs of a run. Raises a ScmdError where a cluster of ours has too few."""
        nodes = self._nodes()
        most = {name: max((n.get(name, 0) for n in nodes), default=0) for name in ("CPU", "GPU")}
        gpus = self.resources.gpus
        if gpus is None:
            gpus = 1.0 if most["GPU"] else 0.0
        cpus = self.resources.cpus or (1 + self.loaders if gpus else 1)
        if self.address is None:  # no other machine will come
            for name, asked, flag in (("CPU", cpus, "cpus"), ("GPU", gpus, "gpus")):
                if asked > most[name]:
                    raise ScmdError(
                        f"--{flag}-per-run {asked:g}: this machine has {most[name]:g}. Give at "
                        "most that, or --ray-address of a cluster"
                    )
        return cpus, gpus

    def size(self) -> int:
        """How many runs there is room for now, and one where there is none: it waits for some."""
        fit = 0
        for node in self._nodes():
            rooms = [node.get("CPU", 0) / self.cpus]
            if self.gpus:
                rooms.append(node.get("GPU", 0) / self.gpus)
            fit += math.floor(min(rooms) + 1e-9)
        return max(1, fit)

    def hire(self) -> int:
        """Ask for an actor; it is ready when there is room for it."""
        worker, self._hired = self._hired, self._hired + 1
        own = {
            name: method
            for name, method in METHODS.items()
            if not method.__module__.startswith("scmd.")
        }
        for module in {sys.modules[method.__module__] for method in own.values()}:
            if module.__name__ != "__main__":
                self._by_value(module)
        place = Place(
            str(self.out), self.comparison, self._probe.name, os.getcwd(), version("scmd"),
            self.cpus, own,
        )  # fmt: skip
        actor = self._actors[worker] = self._actor.remote(place)
        self._asked[actor.ready.remote()] = worker, None
        return worker

    def give(self, worker: int, run: PlannedRun) -> None:
        """Let an actor do a run."""
        self._asked[self._actors[worker].do.remote(run)] = worker, run

    def wait(self, seconds: float) -> list[Event]:
        """What the actors answered, and which of them were lost."""
        if not self._asked:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=seconds)
        return [self._hear(answer) for answer in ready]

    def _hear(self, answer: Any) -> Event:
        worker, run = self._asked.pop(answer)
        try:
            said = self._ray.get(answer)
        except self._lost as error:
            with contextlib.suppress(Exception):
                self._ray.kill(self._actors.pop(worker))  # if only the connection was lost
            return Event("lost", worker, why=_why(error))
        if run is None:
            return Event("ready", worker)
        outcome, packed = said
        if packed is not None:
            outcome = self._receive(worker, run, outcome, packed)
        elif outcome.kind == "broken":
            note_broken(self.out / run.name, outcome.said)
        return Event("ended", worker, outcome)

    def _receive(self, worker: int, run: PlannedRun, outcome: Outcome, packed: bytes) -> Outcome:
        try:
            unpack_run(packed, self.out / run.name)
        except HeldError as error:  # another command does the run, too
            return Outcome("held", str(error), outcome.seconds, outcome.warnings)
        except ScmdError as error:
            return Outcome("broken", f"broken ({error})", outcome.seconds, outcome.warnings)
        self._actors[worker].forget.remote(run.name)
        return outcome


def check_address(address: str) -> None:
    """See that the head of a cluster answers, in bounded time: Ray itself tries for minutes.

    Raises:
        ScmdError: It is no HOST:PORT, or nobody answers there.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and "/" not in host):
        raise ScmdError(
            f"--ray-address {address}: give HOST:PORT of the cluster's head, as ray start --head "
            "prints it, or auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTING).close()
    except (OSError, OverflowError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise ScmdError(
            f"--ray-address {address}: nobody answers there ({said}). Start a cluster with "
            "ray start --head, or leave the option out"
        ) from error
    code = "import sys, ray; ray._raylet.GcsClient(address=sys.argv[1])"  # raises
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, timeout=ASKING, check=False
        )
        answered = done.returncode == 0
    except subprocess.TimeoutExpired:
        answered = False
    if not answered:
        raise ScmdError(
            f"--ray-address {address}: what answers there is no head of a Ray cluster that this "
            f"Ray ({version('ray')}) can talk to. ray start --head prints the address"
        )


def _comparison(out: Path) -> str:
    """The name of a comparison: made once, and lost with its folder.

    What another machine still has of a comparison that was here before must not be taken for this
    one's: its data may have been other data. (Of two commands that begin at the same moment each
    may have its own; the later one stays.)
    """
    file = out / COMPARISON
    if not file.exists():
        with writing_aside(file) as new:
            new.write(uuid.uuid4().hex.encode())
    name = file.read_text()
    if re.fullmatch(r"[0-9a-f]{32}", name) is None:
        raise ScmdError(f"{file}: {name[:40]!r} is no comparison's name. Delete the file")
    return name


def _short_folder() -> tempfile.TemporaryDirectory:
    """A folder for Ray's own files, whose name leaves room for those of its sockets."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        name = f"{parent}/scmd-ray-12345678{SOCKET}"
        if len(os.fsencode(name)) <= LONGEST_SOCKET and os.access(parent, os.W_OK | os.X_OK):
            return tempfile.TemporaryDirectory(
                prefix="scmd-ray-", dir=parent, ignore_cleanup_errors=True
            )
    raise ScmdError(
        f"{tempfile.gettempdir()}: its name is too long for Ray's sockets. Set TMPDIR to a "
        "folder with a short name"
    )


def _why(error: Exception) -> str:
    """The reason: what was raised while a worker was made, else what Ray calls it."""
    raised = re.findall(r"^\s*(?:[\w.]+\.)?(\w+Error: .+)$", str(error), re.MULTILINE)
    return f"its worker was lost ({raised[-1] if raised else type(error).__name__})"
