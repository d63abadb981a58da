"""Puts tables where a page of the documentation has a place for them.

A place begins with ``<!-- made by make results: NAME -->`` and ends with ``<!-- end -->``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from scmd.files import writing_aside

_PLACE = re.compile(r"(<!-- made by make results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: Path, texts: Mapping[str, str]) -> list[str]:
    """Write the texts into the places of that name.

    Returns:
        The names of the places that were filled.
    """
    before = page.read_text(encoding="utf-8")
    filled: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        if name not in texts:
            return match.group(0)
        filled.append(name)
        return f"{start}\n{texts[name].strip()}\n\n{end}"

    after = _PLACE.sub(replaced, before)
    if after != before:
        with writing_aside(page) as file:
            file.write(after.encode())
    return filled
