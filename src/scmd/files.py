"""Reading and writing so that nothing is lost or half-written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from scmd.errors import ScmdError

ASIDE = ".aside"
"""How the names of files end that are not in their place yet."""

_LOCKS: set[IO[str]] = set()


@contextmanager
def locked(path: Path, taken: Callable[[], None]) -> Iterator[None]:
    """Hold a lock against every other process. It goes with its process, however that ends, so
    that there are no stale ones.

    Args:
        path: The lock's file; made if need be, and left.
        taken: Called where another process has it: raises what is to be said, or returns to wait.

    Raises:
        OSError: The file cannot be opened.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken()
            fcntl.flock(lock, fcntl.LOCK_EX)
        _LOCKS.add(lock)
        try:
            yield
        finally:
            _LOCKS.discard(lock)


def _leave_locks() -> None:
    """A forked worker would hold its parent's locks, and longer than a parent that is killed."""
    for lock in _LOCKS:
        lock.close()


os.register_at_fork(after_in_child=_leave_locks)


@contextmanager
def writing_aside(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside its place, flush it to the disk, and only then rename it.

    Raises:
        ScmdError: The folder cannot be written or the disk is full; what was there before stays.
    """
    aside: Path | None = None
    try:
        handle, name = tempfile.mkstemp(ASIDE, f".{path.name}.", path.parent)
        aside = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        failed = _failed_write(error)
        if failed is None:
            raise
        raise cannot_write(path, failed) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> ScmdError:
    """What is said where a file cannot be written."""
    what = error.strerror or str(error)
    way_out = "Make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Choose another place"
    return ScmdError(f"{path} cannot be written: {what}. {way_out}; what was there before is kept")


def _failed_write(error: BaseException | None) -> OSError | None:
    """The OSError, or the one that it came from: torch.save makes RuntimeErrors of them."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def remove_asides(folder: Path) -> None:
    """Remove what a kill left beside its place. Only for who holds the folder's lock."""
    for path in folder.glob(f".*{ASIDE}"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, aside and renamed."""
    with writing_aside(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        ScmdError: It is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScmdError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # or it is nested a thousand times
        raise ScmdError(f"{path} is damaged: {error}") from error


def make_folder(folder: Path, flag: str) -> None:
    """Make what a flag named. Raises ScmdError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScmdError(
            f"{folder} cannot be made: {error.strerror}. Choose another {flag}"
        ) from error
