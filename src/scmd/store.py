"""Where what is computed once is kept on the disk, for every run of a user."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scmd.errors import ScmdError
from scmd.files import locked, remove_asides

ROOT_VARIABLE = "SCMD_CACHE"
_LOCK = ".lock"


def cache_root() -> Path:
    """The folder of all caches: ``$SCMD_CACHE``, else ``scmd`` in ``$XDG_CACHE_HOME``, else
    ``~/.cache/scmd``. It need not exist; what is in it can be deleted while nothing runs."""
    given = os.environ.get(ROOT_VARIABLE)
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scmd"


@contextmanager
def exclusive(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a folder, made if need be, against every other process: one builds, others wait.

    Whoever comes in looks again at what is there: another may have built it meanwhile. The lock
    goes with its process, however that ends, so that there are no stale ones.

    Args:
        folder: What is built in.
        waiting: Called once if another process holds the folder, before waiting for it.

    Raises:
        ScmdError: The folder cannot be written.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / _LOCK, waiting))
        except OSError as error:
            raise ScmdError(
                f"the cache {folder} cannot be written: {error.strerror}. Set {ROOT_VARIABLE} to "
                "another folder"
            ) from error
        remove_asides(folder)
        yield
