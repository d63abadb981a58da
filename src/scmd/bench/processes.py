"""How a step grows with processes that share its batch, by torchrun on this machine's CPU."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from scmd.bench.ours import Ours
from scmd.bench.work import Work
from scmd.errors import ScmdError

PROCESSES = (1, 2)


def seconds_of_mean_step(work: Work, processes: int) -> float:
    """A mean step of a run whose batch is shared by so many processes, one thread each.

    Raises:
        ScmdError: The processes could not do it.
    """
    settings = json.dumps(dataclasses.asdict(work), default=str)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes))
    command = [sys.executable, *torchrun, "-m", "scmd.bench.processes", settings]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    if done.returncode:
        raise ScmdError(f"{processes} processes could not share a step: {done.stderr[-300:]}")
    return float(done.stdout.split()[-1])


def main(settings: str) -> None:
    """One of the processes; the first prints the seconds of a mean step."""
    given = json.loads(settings)
    work = Work(**{**given, "data": Path(given["data"])})
    ours = Ours(work)
    ours.step("whole")
    seconds = []
    for phase in ("select", "whole"):
        ours.runner.accelerator.wait_for_everyone()
        began = time.perf_counter()
        ours.step(phase)
        ours.runner.accelerator.wait_for_everyone()
        seconds.append(time.perf_counter() - began)
    if ours.runner.is_main:
        print(work.mix(*seconds))


if __name__ == "__main__":
    main(sys.argv[1])
