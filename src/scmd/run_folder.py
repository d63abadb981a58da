"""A run's folder: what lies where, and who may write to it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scmd.config import RunConfig, differences, load_config, save_config
from scmd.errors import ScmdError

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
SAMPLES = "samples.parquet"
SELECTION = "selection.parquet"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
_LOCK = ".lock"


def check_folder(out: Path, config: RunConfig, resume: bool) -> None:
    """See that a run may be written to ``out``, before anything is.

    Raises:
        ScmdError: It holds a run and ``resume`` is off, a run of another configuration, or
            something else.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ScmdError(f"{out} is a file. Choose another --out")
    if (out / CONFIG).exists():
        if not resume:
            raise ScmdError(
                f"{out} holds a run already. Pass --resume to continue it, or choose another --out"
            )
        changed = differences(load_config(out / CONFIG), config)
        if changed:
            raise ScmdError(
                f"{out} was started with another configuration ({'; '.join(changed[:3])}). "
                f"Pass --config {out / CONFIG} and nothing else to resume it as it was"
            )
    elif any(path.name != _LOCK for path in out.iterdir()):
        raise ScmdError(f"{out} is not empty and holds no run. Choose another --out")


@contextmanager
def opened(out: Path, config: RunConfig) -> Iterator[None]:
    """Make the folder, write the configuration, and keep other processes out.

    The lock goes with the process, however it ends.

    Raises:
        ScmdError: The folder cannot be written, or another process holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / _LOCK).open("w")
    except OSError as error:
        raise ScmdError(
            f"{out} cannot be written: {error.strerror}. Choose another --out"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ScmdError(
                f"another process is training in {out}. Wait for it, or choose another --out"
            ) from error
        if not (out / CONFIG).exists():
            save_config(config, out / CONFIG)
        yield
