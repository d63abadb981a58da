"""What does runs on a machine of a Ray cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from scmd.cache import Shared
from scmd.errors import ScmdError
from scmd.methods import METHODS, Method
from scmd.protocol.elsewhere import attempt_elsewhere, processors, shared_by
from scmd.protocol.outcomes import Outcome
from scmd.protocol.plan import PlannedRun
from scmd.protocol.sent import pack_run
from scmd.store import cache_root


@dataclass(frozen=True)
class Place:
    """Where a sweep comes from."""

    out: str
    """The comparison's folder, on the machine of the command."""
    comparison: str
    """Its own name, which no other has, not even one in a folder of the same path."""
    probe: str
    """A file in it that holds its own name: who finds it sees the same folder."""
    cwd: str
    """The command's working folder, which relative paths start from."""
    version: str
    """Of scmd."""
    cpus: int
    """Of each run."""
    methods: Mapping[str, type[Method]] = field(default_factory=dict)
    """Those that are not the package's own."""


class RunWorker:
    """Does runs in the comparison's folder if it sees that, else in one of its own.

    Raises:
        ScmdError: This machine has another version of the package.
    """

    def __init__(self, place: Place) -> None:
        if version("scmd") != place.version:
            raise ScmdError(
                f"{os.uname().nodename} has scmd {version('scmd')}, and the sweep was started by "
                f"{place.version}. Install the same on all machines"
            )
        METHODS.update(place.methods)
        if Path(place.cwd).is_dir():
            os.chdir(place.cwd)
        torch.set_num_threads(place.cpus)
        self.sees_out = sees(place)
        self.out = Path(place.out) if self.sees_out else scratch(place.comparison)
        self.shared: Shared = shared_by(max(1, processors() // place.cpus))

    def ready(self) -> bool:
        """Whether it is; it answers when it has been made."""
        return True

    def do(self, run: PlannedRun) -> tuple[Outcome, bytes | None]:
        """Do a run: what became of it, and its folder if it has to be sent."""
        folder = self.out / run.name
        outcome = attempt_elsewhere(run, folder, self.shared)
        send = outcome.kind == "done" and not self.sees_out
        return outcome, pack_run(folder) if send else None

    def forget(self, name: str) -> None:
        """Remove a run that has arrived."""
        if not self.sees_out:
            shutil.rmtree(self.out / name, ignore_errors=True)


def sees(place: Place) -> bool:
    """Whether this machine sees the comparison's folder, and may write to it."""
    probe = Path(place.out) / place.probe
    try:
        return probe.read_text() == place.probe and os.access(place.out, os.W_OK)
    except OSError:
        return False


def scratch(comparison: str) -> Path:
    """Where runs of a comparison are done on a machine that does not see its folder."""
    return cache_root() / "sweeps" / comparison
