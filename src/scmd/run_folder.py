"""A run's folder: what lies where, and who may write to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scmd.config import RunConfig, differences, load_config, save_config
from scmd.errors import ScmdError
from scmd.files import ASIDE, locked, remove_asides

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
SAMPLES = "samples.parquet"
SELECTION = "selection.parquet"
SUMMARY = "summary.json"
NOT_FINITE = "not_finite.json"
"""Step, losses and sample ids, where a loss was not finite."""
CHECKPOINTS = "checkpoints"
_LOCK = ".lock"
_HELD: set[Path] = set()
"""The folders that this process holds."""


class HeldError(ScmdError):
    """Another process holds a run's folder."""


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
                f"Pass --resume --out {out} and no other setting to go on as it was, or choose "
                "another --out"
            )
    elif any(is_content(path) for path in out.iterdir()):
        raise ScmdError(f"{out} is not empty and holds no run. Choose another --out")


def is_content(path: Path) -> bool:
    """Whether a file is more than what a process that was killed at once may leave."""
    return path.name != _LOCK and not path.name.endswith(ASIDE)


@contextmanager
def opened(out: Path, config: RunConfig) -> Iterator[None]:
    """Make the folder, write the configuration, and keep other processes out.

    Raises:
        ScmdError: The folder cannot be written, or another process holds it.
    """
    with held(out):
        if not (out / CONFIG).exists():
            save_config(config, out / CONFIG)
        yield


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Make a folder and keep other processes out of it; what this process holds, it may enter.

    Raises:
        HeldError: Another process holds it.
        ScmdError: It cannot be written.
    """
    if out.resolve() in _HELD:
        yield
        return

    def refuse() -> None:
        raise HeldError(
            f"another process is training in {out}. Wait for it, or choose another --out"
        )

    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(out / _LOCK, refuse))
        except OSError as error:
            raise ScmdError(
                f"{out} cannot be written: {error.strerror}. Choose another --out"
            ) from error
        remove_asides(out)
        _HELD.add(out.resolve())
        stack.callback(_HELD.discard, out.resolve())
        yield
