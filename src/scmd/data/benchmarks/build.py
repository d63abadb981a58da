"""What getting and importing have in common: a lock, a check, and the last rename."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from scmd.data.benchmarks.addresses import SourceError
from scmd.data.benchmarks.arrange import How, items_of, place
from scmd.data.benchmarks.counts import Comparison, compare, in_short
from scmd.data.benchmarks.entries import Benchmark
from scmd.errors import ScmdError
from scmd.files import make_folder
from scmd.store import cache_root, exclusive

ARRANGED = "arranged"


@dataclass(frozen=True)
class Reporting:
    """How people are told what is done."""

    say: Callable[[str], None]
    """One line."""
    transferring: Callable[[int, int], None] = lambda done, of: None
    """Bytes done, and of all; 0 where unknown."""
    counting: Callable[[int, int], None] = lambda done, of: None
    """Images done, and of all; 0 where unknown."""


class DifferentError(ScmdError):
    """A data set does not hold what was published."""


def workplace(out: Path, what: str) -> Path:
    """The folder in which a data set is made, beside its place; it need not be there.

    Args:
        out: The data set's place.
        what: The end of the folder's name. What gets a set is another than what imports it, and
            than what gets another set.
    """
    out = out.absolute()  # "." has no name, and nothing is beside it
    return out.parent / f".{out.name}.{what}"


@contextmanager
def workshop(out: Path, what: str, say: Callable[[str], None]) -> Iterator[Path]:
    """Make the workplace, and hold it against other processes.

    Args:
        out: The data set's place.
        what: The end of the folder's name.
        say: Called if another process has to be waited for.

    Raises:
        ScmdError: It cannot be made.
    """
    folder = workplace(out, what)
    name = hashlib.blake2b(os.fsencode(out.resolve()), digest_size=16).hexdigest()
    # The lock lies elsewhere, since this folder is removed while others may wait for it.
    with exclusive(
        cache_root() / "making" / name, lambda: say(f"waiting: another process makes {out}")
    ):
        made = not folder.parent.exists()
        make_folder(folder, "--out")
        try:
            yield folder
        finally:
            if not any(path.is_file() for path in folder.rglob("*")):  # nothing to go on with
                sweep(folder)
                if made:
                    with suppress(OSError):
                        folder.parent.rmdir()


def check_free(out: Path, hint: str) -> None:
    """Raise a ScmdError where something is in the place already, or nothing can be."""
    if "\0" in str(out):
        raise ScmdError(f"{str(out)!r} is no name of a folder. Choose another --out")
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ScmdError(f"{out} is there already. {hint}")


def arrange(benchmark: Benchmark, folder: Path, work: Path, how: How, reporting: Reporting) -> Path:
    """Arrange what lies in ``folder``; returns the arranged folder, which is whole.

    Raises:
        SourceError: The folder does not hold the data set.
        ScmdError: The disk is full.
    """
    arranged = work / ARRANGED
    if not arranged.exists():
        reporting.say(f"{benchmark.title}: arranging as domain/class/image")
        place(items_of(benchmark, folder), arranged, how, reporting.counting)
    return arranged


def put_in_place(
    benchmark: Benchmark, arranged: Path, out: Path, allow_differences: bool
) -> Comparison:
    """Compare an arranged data set with the published counts, and rename it to its place.

    Raises:
        DifferentError: It differs, and that was not allowed; the arranged folder stays.
        SourceError: It is no data set.
        ScmdError: Something is in its place.
    """
    try:
        found = compare(benchmark, arranged)
    except ScmdError as error:
        raise SourceError(f"makes no data set: {error}") from error
    if found.differences and not allow_differences:
        version = f" ({found.version.label})" if found.version else ""
        raise DifferentError(f"not what was published{version}: {in_short(found.differences)}")
    out = out.absolute()  # "." cannot be removed
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    try:
        arranged.rename(out)
    except OSError as error:
        raise ScmdError(f"{out} cannot be made: {error.strerror}. Choose another --out") from error
    return found


def sweep(work: Path) -> None:
    """Remove the folder in which a data set was made."""
    shutil.rmtree(work, ignore_errors=True)
