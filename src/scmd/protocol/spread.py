"""Over what the runs of a comparison are spread: this process, several, or a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from scmd.errors import ScmdError
from scmd.protocol.plan import PlannedRun
from scmd.protocol.runner import run_plan


@dataclass(frozen=True)
class SpreadConfig:
    """Where runs are done, and how many at once."""

    jobs: int = 1
    """Processes of this machine that do runs side by side, each with its part of the processors,
    and on one of the GPUs."""
    ray: bool = False
    """Do the runs on a Ray cluster; without --ray-address, one of this machine alone."""
    ray_address: str | None = None
    """HOST:PORT of the head of a cluster that is running (ray start --head prints it), or auto: the
    one that this machine is part of."""
    cpus_per_run: int | None = None
    """With --ray, processors of each run. Default: 1; with a GPU, one more for each of
    training.workers."""
    gpus_per_run: float | None = None
    """With --ray, GPUs of each run; 0.5 puts two on one. Default: 1 where the cluster has any."""
    retries: int = 3
    """How often a run whose process or machine was lost is taken up again."""


def check_spread(config: SpreadConfig) -> None:
    """See that it can be followed, before anything is done.

    Raises:
        ScmdError: A value that is out of range, or flags that do not go together.
    """
    if config.jobs < 1:
        raise ScmdError(f"--jobs {config.jobs}: give a whole number from 1")
    if config.retries < 0:
        raise ScmdError(f"--retries {config.retries}: give a whole number from 0")
    if config.cpus_per_run is not None and config.cpus_per_run < 1:
        raise ScmdError(f"--cpus-per-run {config.cpus_per_run}: give a whole number from 1")
    gpus = config.gpus_per_run
    if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and gpus.is_integer())):
        raise ScmdError(
            f"--gpus-per-run {gpus:g}: give a whole number from 0, or a part of one between 0 and 1"
        )
    if config.ray and config.jobs > 1:
        raise ScmdError(
            "--jobs is for this machine without --ray; with --ray, --cpus-per-run and "
            "--gpus-per-run say how many runs there is room for"
        )
    if not config.ray:
        given = [
            n
            for n in ("ray_address", "cpus_per_run", "gpus_per_run")
            if getattr(config, n) is not None
        ]
        if given:
            raise ScmdError(f"--{given[0].replace('_', '-')} is for a cluster. Pass --ray, too")


def run_spread(
    runs: Sequence[PlannedRun], out: Path, config: SpreadConfig, console: Console
) -> list[tuple[str, str]]:
    """As ``run_plan``, spread as it is wanted."""
    if not config.ray and config.jobs == 1:
        return run_plan(runs, out, console)
    from scmd.protocol.sweep import sweep

    if config.ray:
        from scmd.protocol.ray_cluster import RayCrew, Resources

        resources = Resources(config.cpus_per_run, config.gpus_per_run)
        with RayCrew(runs, out, config.ray_address, resources) as crew:
            return sweep(runs, out, crew, console, config.retries)
    from scmd.protocol.jobs import LocalCrew

    with LocalCrew(min(config.jobs, len(runs)), out) as crew:
        return sweep(runs, out, crew, console, config.retries)
