"""One image of a data set, on its way into its place, and where images and tables are found."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from scmd.data.benchmarks.entries import Benchmark
from scmd.data.listing import is_image


class Item(NamedTuple):
    """One image of the set: where it goes, and what it is."""

    domain: str
    class_name: str
    name: str
    """May have folders in it."""
    content: Path | bytes


def plain(name: str) -> str:
    """A name without what differs from copy to copy: capitals, blanks, dashes."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def domain_names(benchmark: Benchmark) -> dict[str, str]:
    """The domains by the plain form of all names that copies have for them."""
    return {
        plain(name): domain
        for domain in benchmark.domains
        for name in (domain, *benchmark.aliases.get(domain, ()))
    }


def files_in(folder: Path, pattern: str = "*") -> Iterator[Path]:
    """The files below a folder by their names, in order: none hidden, no folder, no pipe.

    Links are followed. What cannot be read is passed over, and each folder is read once.
    """
    for entry in _entries(folder, search=True):
        wanted = fnmatchcase(entry.name, pattern) and not entry.name.startswith(".")
        if wanted and (os.path.isfile(entry) if entry.is_symlink() else entry.is_file()):
            yield Path(entry.path)


def images_in(folder: Path) -> Iterator[Path]:
    """The images of a class, in order: those that ``list_folder`` has.

    Raises:
        OSError: A folder cannot be read, or is a link to one that it lies in.
    """
    return (Path(entry.path) for entry in _entries(folder, search=False) if is_image(entry.name))


def _entries(folder: Path, search: bool) -> Iterator[os.DirEntry[str]]:
    """All that is no folder below a folder."""
    left = [(os.fspath(folder), {_identity(top) for top in folder.resolve().parents})]
    while left:
        top, above = left.pop()
        try:
            here = _identity(top)
            if here in above:
                raise OSError(errno.ELOOP, "it is a link to a folder that it lies in", top)
            with os.scandir(top) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            if search:
                continue
            raise
        inside = above if search else above.copy()
        inside.add(here)
        yield from (entry for entry in found if not is_folder(entry))
        left += [(entry.path, inside) for entry in reversed(found) if is_folder(entry)]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or leads to one. A link to itself does not."""
    return os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
