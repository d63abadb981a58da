"""Draw docs/digits.png: some digits of every domain of the embedded set, a row each."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from scmd.data.digit_styles import SIZE, render
from scmd.data.digits import DOMAINS, members

COLUMNS, GAP, ZOOM = 20, 2, 2


def main() -> None:
    """Write the picture."""
    pitch = SIZE + GAP
    sheet = Image.new("RGB", (COLUMNS * pitch - GAP, len(DOMAINS) * pitch - GAP), "white")
    for row, domain in enumerate(DOMAINS):
        for column, index in enumerate(members(domain)[:COLUMNS]):
            sheet.paste(render(int(index), domain), (column * pitch, row * pitch))
    size = (sheet.width * ZOOM, sheet.height * ZOOM)
    sheet.resize(size, Image.Resampling.NEAREST).save(
        Path(__file__).parents[1] / "docs" / "digits.png"
    )


if __name__ == "__main__":
    main()
