"""Images that are decoded already: one file of pixels on the disk, mapped into memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PIXELS, INDEX = "pixels.u8", "index.npz"


class DecodedImages:
    """Pixels of a data set's images, as ``scmd.data.decode_once`` wrote them.

    Of an image that is larger than training needs there are two pictures: one that is reduced,
    to train on, and one that is resized, to be scored. Any other is there as it is.

    Args:
        folder: Where the two files are.

    Raises:
        OSError, ValueError, KeyError: They are absent, unfinished or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with np.load(folder / INDEX, allow_pickle=False) as index:
            self.state = str(index["state"])
            """Of the files that were decoded."""
            self._starts, self._shapes = index["starts"], index["shapes"]
            self.shorter_side = int(index["shorter_side"]) or None
            """What the larger images' shorter side is reduced to."""
            self.scored_size = int(index["scored_size"])
            """The side of the resized pictures."""
            length = int(index["length"])
        self._pixels = np.memmap(folder / PIXELS, np.uint8, "r")
        if len(self._pixels) != length:
            raise ValueError(f"{folder / PIXELS} has {len(self._pixels)} bytes, not {length}")

    def __reduce__(self) -> tuple[type[DecodedImages], tuple[Path]]:
        # A process that is not forked opens the files; it is not sent their content.
        return type(self), (self.folder,)

    def to_train(self, row: int, shorter_side: int | None) -> np.ndarray | None:
        """An image, reduced to a shorter side, as ``read_image`` does it.

        Args:
            row: Which sample.
            shorter_side: As for ``read_image``.

        Returns:
            uint8 [h, w, 3]; None where it is not here.
        """
        reduced = self._starts[row, 0] != self._starts[row, 1]
        height, width = self._shapes[row, 0]
        fits = shorter_side is None or min(height, width) <= shorter_side
        asked_for = shorter_side == self.shorter_side if reduced else fits
        return self._picture(row, 0) if asked_for else None

    def to_score(self, row: int, size: int | None) -> np.ndarray | None:
        """A whole image, or one that is resized to a square already.

        Args:
            row: Which sample.
            size: The side that it will be resized to; None where it must not be resized yet.

        Returns:
            uint8 [h, w, 3]; None where it is not here.
        """
        resized = self._starts[row, 0] != self._starts[row, 1]
        return None if resized and size != self.scored_size else self._picture(row, 1)

    def _picture(self, row: int, which: int) -> np.ndarray | None:
        start, (height, width) = self._starts[row, which], self._shapes[row, which]
        size = int(height) * int(width) * 3
        if not size:
            return None
        return self._pixels[start : start + size].reshape(height, width, 3)
