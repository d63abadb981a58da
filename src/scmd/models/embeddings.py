"""A teacher's image embeddings on the disk: a table that grows, and is never changed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from scmd.errors import ScmdError
from scmd.store import ROOT_VARIABLE

KEYS, EMBEDDINGS = "keys.i64", "embeddings.f16"


class EmbeddingTable:
    """Half-precision rows [N, width] by a number each, in two files that are appended to.

    A row is there once its number is: that is written last, after the row is on the disk. What
    a killed process left beyond that is cut off by the next one that appends. Readers need no
    lock; who appends holds the folder (``scmd.store.exclusive``).

    Args:
        folder: Where the files are; it need not exist before something is appended.
        width: Numbers in an embedding.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = folder, width

    def __len__(self) -> int:
        return min(_size(self.folder / KEYS) // 8, _size(self.folder / EMBEDDINGS) // self._row)

    @property
    def _row(self) -> int:
        return 2 * self.width

    def places(self, keys: np.ndarray) -> np.ndarray:
        """Which row each key has: int64 [n], -1 where there is none yet. Keys: int64 [n]."""
        length = len(self)
        if not length:
            return np.full(len(keys), -1)
        known = np.fromfile(self.folder / KEYS, "<i8", count=length)
        order = np.argsort(known)
        place = order[np.searchsorted(known, keys, sorter=order).clip(max=length - 1)]
        return np.where(known[place] == keys, place, -1)

    def rows(self) -> np.ndarray:
        """All rows, mapped from the file and not read before they are looked at: [N, width]."""
        if not (length := len(self)):
            return np.empty((0, self.width), np.float16)
        return np.memmap(self.folder / EMBEDDINGS, "<f2", "r", shape=(length, self.width))

    def append(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Add rows [n, width] under keys, int64 [n], that are not there yet.

        Raises:
            ScmdError: The files cannot be written, or the disk is full; what was there stays.
        """
        length = len(self)
        try:
            _append(self.folder / EMBEDDINGS, length * self._row, rows.astype("<f2").tobytes())
            _append(self.folder / KEYS, length * 8, keys.astype("<i8").tobytes())
        except OSError as error:
            raise ScmdError(
                f"the cache {self.folder} cannot be written: {error.strerror}. Make room, or set "
                f"{ROOT_VARIABLE} to another folder"
            ) from error


def _append(path: Path, size: int, content: bytes) -> None:
    """Write behind the first ``size`` bytes, and wait until it is on the disk."""
    with path.open("ab") as file:
        file.truncate(size)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
