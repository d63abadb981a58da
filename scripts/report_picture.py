"""Photograph a report's selection explorer, for the README.

    python scripts/report_picture.py REPORT/index.html docs/report.png

It needs playwright and a Chromium (Debian's, or the one that SCMD_CHROMIUM names).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import tyro
from playwright.sync_api import sync_playwright


def main(
    page: tyro.conf.Positional[Path],
    picture: tyro.conf.Positional[Path],
    width: int = 900,
    height: int = 1540,
) -> None:
    """Take the picture.

    Args:
        page: The report.
        picture: The PNG to write.
        width: In pixels.
        height: In pixels.
    """
    chromium = os.environ.get("SCMD_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": height})
        tab.goto(page.resolve().as_uri())
        box = tab.locator("[data-explorer]").first.bounding_box()
        assert box is not None, "the report has no explorer: its runs selected nothing"
        clip = {"x": 0, "y": box["y"] - 10, "width": width, "height": height}
        tab.screenshot(path=picture, full_page=True, clip=clip)  # type: ignore[arg-type]
        browser.close()


if __name__ == "__main__":
    tyro.cli(main)
