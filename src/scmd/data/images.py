"""From a file to an RGB picture."""

from __future__ import annotations

import logging
import os
import stat
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from scmd.errors import BadImageError

# Formats that Pillow lists and that need a program or a handler which it does not bring.
_UNDECODABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def _extensions() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(e for e, f in known.items() if f in Image.OPEN and f not in _UNDECODABLE)


IMAGE_EXTENSIONS = _extensions()
"""File extensions, lower case and with the dot, of what Pillow decodes."""

# Whatever a file is called: what is named .jpg and is PostScript must not start Ghostscript.
_FORMATS = tuple(name for name in Image.ID if name not in _UNDECODABLE)

# What puts a picture upright, by its EXIF orientation; 1 is upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Else Python prints on the standard error what Pillow logs about damaged files.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class _Quiet:
    """Keeps back what Pillow warns of, in whatever thread images are decoded.

    Damaged files are errors anyway, and between Pillow's limit of pixels and twice as many are
    cameras, too. Of several threads with a ``warnings.catch_warnings`` each, the last one out may
    put back another one's filters for good; so the first one in and the last one out do it here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        # A worker that is forked just now must not wait for a thread that it does not have.
        os.register_at_fork(
            before=self._lock.acquire,
            after_in_parent=self._lock.release,
            after_in_child=self._lock.release,
        )

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._kept = warnings.catch_warnings()
                self._kept.__enter__()
                warnings.filterwarnings("ignore", module="PIL")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._kept.__exit__(None, None, None)


_quiet = _Quiet()


def open_image(path: Path) -> Image.Image:
    """Open a file to decode it later: its size, mode and format are known then.

    Raises:
        OSError: No regular file, or no image of a format that is decoded here. (Pillow raises all
            sorts besides.)
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for who writes to it
        raise OSError("not a regular file")
    with _quiet:
        return Image.open(path, formats=_FORMATS)


def read_image(path: Path, shorter_side: int | None = None) -> Image.Image:
    """Decode a file to RGB; see ``to_rgb``. Of an animation the first frame is taken.

    Args:
        path: The file.
        shorter_side: Reduce the image to it where it is larger, keeping the aspect; a JPEG is
            then decoded at a half, a quarter or an eighth of its size where that is enough.

    Raises:
        BadImageError: The file cannot be read or decoded in full, or is larger than Pillow dares
            (``PIL.Image.MAX_IMAGE_PIXELS``, twice).
    """
    try:
        with _quiet, open_image(path) as image:
            if shorter_side is None or min(image.size) <= shorter_side:
                return to_rgb(image)
            width, height = reduced_size(image.size, shorter_side)
            image.draft(None, (shorter_side, shorter_side))
            whole = to_rgb(image)
            turned = (whole.width - whole.height) * (width - height) < 0
            size = (height, width) if turned else (width, height)
            return whole.resize(size, Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise all sorts on damaged data
        raise BadImageError(f"{path} cannot be decoded: {describe(error)}") from error


def reduced_size(size: tuple[int, int], shorter_side: int | None) -> tuple[int, int]:
    """What ``read_image`` reduces a size to, two sides in either order."""
    if shorter_side is None or min(size) <= shorter_side:
        return size
    one, other = (max(1, round(side * shorter_side / min(size))) for side in size)
    return one, other


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB, turned upright as its EXIF orientation says.

    16-bit grey is scaled to 8 bits (``convert`` alone would clip it); transparency is put on white.

    Raises:
        BadImageError: It has no pixels, or such that nobody knows which of them is white.
    """
    if not all(image.size):
        raise BadImageError(f"it has no pixels: {image.width} × {image.height}")
    image = _upright(image)
    if image.mode.startswith("F"):
        raise BadImageError(
            "its pixels are floating-point numbers, and which of them is white is not known. "
            "Save it with 8 or 16 bits"
        )
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Not by ``ImageOps.exif_transpose``, which writes the EXIF anew: a damaged one it cannot."""
    image.load()  # which puts a TIFF upright by itself
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # an unreadable EXIF says nothing about the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, of which one value may be transparent, as RGB."""
    values = np.asarray(image)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= 2**16:
        raise BadImageError(
            f"its pixels go from {lowest} to {highest}, and which of them is white is not known. "
            "Save it with 8 or 16 bits"
        )
    grey = (values >> 8).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def describe(error: BaseException) -> str:
    """One line that says what went wrong, without the path that Pillow may put into it."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
