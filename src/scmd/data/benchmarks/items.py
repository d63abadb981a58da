"""One image of a data set, on its way into its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scmd.data.images import IMAGE_EXTENSIONS


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


def images_in(folder: Path) -> Iterator[Path]:
    """The image files below a folder, in order; no hidden ones."""
    for top, subfolders, names in os.walk(folder):
        subfolders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS and not name.startswith("."):
                yield Path(top, name)
