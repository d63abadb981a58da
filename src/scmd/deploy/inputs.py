"""Which image files are meant: files, folders, patterns and lists."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from scmd.data.walking import images_in
from scmd.errors import ScmdError

STDIN = Path("-")


def find_images(paths: Iterable[Path], listed: BinaryIO | None = None) -> Iterator[Path]:
    """The image files that are meant, in order.

    A file is taken as it is; of a folder, all files with an image's extension, sorted, none of
    them hidden, with links followed as in training; of a pattern (``*``, ``?``, ``[...]``; ``**``
    for any folders) that is no file, what a shell would make of it; of ``-``, the lines of the
    standard input, a file each. A line that leads to none is passed on, to be reported with the
    predictions: lists are long, and may be old.

    Args:
        paths: What was given.
        listed: What ``-`` reads; default: the standard input.

    Raises:
        ScmdError: A path that does not exist, a pattern that nothing matches, a folder without an
            image or that cannot be read, or an empty list.
    """
    for path in paths:
        if path == STDIN:
            if listed is None and sys.stdin is not None:  # it is None where it was closed
                listed = sys.stdin.buffer
            lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in listed or ())
            names = [Path(line) for line in lines if line]
            if not names:
                raise ScmdError("the standard input names no image. Give one path per line")
            yield from names
            continue
        if os.path.exists(path):
            found = _images_in(path)
        elif glob.has_magic(str(path)):
            matches = sorted(glob.glob(str(path), recursive=True))
            inside = (image for match in matches for image in _images_in(Path(match)))
            found = list(dict.fromkeys(inside))  # ** matches folders, and the files in them
        else:
            raise ScmdError(f"no such image: {path}")
        if not found:
            raise ScmdError(f"no image in {path}. Give image files or folders of them")
        yield from found


def _images_in(path: Path) -> list[Path]:
    """A folder's images, sorted; anything else is taken for one."""
    if not os.path.isdir(path):  # of Path.is_dir, a name that is too long is an error
        return [path]
    try:
        return sorted(p for p in images_in(path, hidden=False) if p.is_file())
    except OSError as error:
        raise ScmdError(
            f"cannot read the folder {error.filename}: {error.strerror}. Name the images themselves"
        ) from error
