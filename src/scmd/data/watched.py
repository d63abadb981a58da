"""By what it is seen, without reading them, that folders hold the names that they held."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable

SETTLED_SECONDS = 30.0
"""A folder that changed less than this before it was read is not relied on.

A clock's tick is up to two seconds on some file systems, and what changes within one leaves no
other time behind. The rest is for file servers whose clock is slow.
"""


class Watched:
    """The folders, files and links that a list of names depends on, as they were when it was read.

    Mark a folder before it is listed: what is added meanwhile then changes its time.

    Args:
        root: What paths are relative to.
        folders: Folders and files, by what ``_mark`` says of them.
        links: Links that led to no folder, by what they led to.
    """

    def __init__(
        self, root: str, folders: Iterable[str] = (), links: Iterable[str] = (), state: str = ""
    ) -> None:
        self.root, self.state = root, state
        self.folders = dict.fromkeys(folders, "")
        self.links = dict.fromkeys(links, "")
        self.began = time.time_ns()
        self.newest = 0

    def mark(self, path: str) -> os.stat_result:
        """Remember a folder's or a file's state. Raises an OSError where it has none."""
        status = os.stat(os.path.join(self.root, path))
        self.folders[path] = _mark(status)
        self.newest = max(self.newest, status.st_mtime_ns, status.st_ctime_ns)
        return status

    def link(self, path: str) -> str:
        """Remember what a link leads to: a ``folder``, a ``file``, or nothing."""
        self.links[path] = found = _led_to(os.path.join(self.root, path))
        return found

    @property
    def settled(self) -> bool:
        """Whether any later change will show."""
        return self.newest < self.began - SETTLED_SECONDS * 1e9

    def digest(self) -> str:
        """Of all that was remembered."""
        digest = hashlib.blake2b(digest_size=16)
        for seen in (self.folders, self.links):
            for path, what in seen.items():
                digest.update(os.fsencode(path) + b"\0" + what.encode() + b"\0")
        return digest.hexdigest()

    def unchanged(self) -> bool:
        """Whether all is as it was when ``state`` was its digest."""
        try:
            for path in self.folders:
                self.mark(path)
            for path in self.links:
                self.link(path)
        except OSError:
            return False
        return self.digest() == self.state


def _mark(status: os.stat_result) -> str:
    return (
        f"{status.st_dev} {status.st_ino} {status.st_mode} {status.st_size} "
        f"{status.st_mtime_ns} {status.st_ctime_ns}"
    )


def _led_to(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "nothing"
    return "folder" if stat.S_ISDIR(mode) else "file"
