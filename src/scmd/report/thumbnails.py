"""Small pictures for a page that stands alone."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from scmd.data.images import read_image
from scmd.errors import BadImageError

SIDE = 96


def thumbnail(path: Path, side: int = SIDE) -> str:
    """A JPEG of at most ``side`` pixels as a data URL; empty where the image cannot be read."""
    try:
        image = read_image(path)
    except BadImageError:
        return ""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=75, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
