"""Files below a folder: links followed, loops found."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from scmd.data.images import IMAGE_EXTENSIONS


def files_in(folder: Path, pattern: str = "*") -> Iterator[Path]:
    """The files below a folder by their names, in order: none hidden, no folder, no pipe.

    Links are followed. What cannot be read is passed over, and each folder is read once.
    """
    for entry in _entries(folder, search=True):
        wanted = fnmatchcase(entry.name, pattern) and not entry.name.startswith(".")
        if wanted and (os.path.isfile(entry) if entry.is_symlink() else entry.is_file()):
            yield Path(entry.path)


def images_in(folder: Path, hidden: bool = True) -> Iterator[Path]:
    """The images below a folder, in order: those that ``list_folder`` has of a class.

    Args:
        folder: Where to look. Links are followed.
        hidden: Look into folders whose names begin with a dot, too.

    Raises:
        OSError: A folder cannot be read, or is a link to one that it lies in.
    """
    found = _entries(folder, search=False, hidden=hidden)
    return (Path(entry.path) for entry in found if is_image(entry.name))


def is_image(name: str) -> bool:
    """Whether a file of that name is taken for an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not name.startswith(".")


def _entries(folder: Path, search: bool, hidden: bool = True) -> Iterator[os.DirEntry[str]]:
    """All that is no folder below a folder."""
    left = [(os.fspath(folder), {identity(os.stat(top)) for top in folder.resolve().parents})]
    while left:
        top, above = left.pop()
        try:
            here = identity(os.stat(top))
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
        left += [
            (entry.path, inside)
            for entry in reversed(found)
            if is_folder(entry) and (hidden or not entry.name.startswith("."))
        ]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or leads to one. A link to itself does not."""
    return os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()


def identity(status: os.stat_result) -> tuple[int, int]:
    """What two paths to one file or folder have in common."""
    return status.st_dev, status.st_ino
