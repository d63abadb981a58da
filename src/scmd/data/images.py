"""From a file to an RGB picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from scmd.errors import BadImageError

# Formats that Pillow lists and that need a program or a handler which it does not bring.
_UNDECODABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def _extensions() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(e for e, f in known.items() if f in Image.OPEN and f not in _UNDECODABLE)


IMAGE_EXTENSIONS = _extensions()
"""File extensions, lower case and with the dot, of what Pillow decodes."""


def read_image(path: Path, shorter_side: int | None = None) -> Image.Image:
    """Decode a file to RGB; see ``to_rgb``. Of an animation the first frame is taken.

    Args:
        path: The file.
        shorter_side: Reduce the image to it where it is larger, keeping the aspect; a JPEG is
            then decoded at a half, a quarter or an eighth of its size where that is enough.

    Raises:
        BadImageError: The file cannot be read or decoded in full.
    """
    try:
        with Image.open(path) as image:
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
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        eight_bits = (np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)
        return Image.fromarray(eight_bits).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def describe(error: BaseException) -> str:
    """One line that says what went wrong, without the path that Pillow may put into it."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
