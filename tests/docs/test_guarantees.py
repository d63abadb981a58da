"""Every promise of docs/guarantees.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::)?(test_\w+)?`")


def named_tests() -> list[tuple[str, str]]:
    """File and function of every test that the page names; a bare function is of the file before.

    In the table of links the file stands in the head of a column, like any other file before.
    """
    found, file = [], ""
    for match in NAMED.finditer((ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")):
        file = match[1] or file
        if match[1] or match[2]:
            found.append((file, match[2] or ""))
    return found


def test_there_are_many():
    assert len(named_tests()) > 80


def test_every_test_that_is_named_exists():
    missing = []
    for file, function in named_tests():
        path = ROOT / file
        if not path.is_file():
            missing.append(file)
        elif function and f"def {function}(" not in path.read_text(encoding="utf-8"):
            missing.append(f"{file}::{function}")
    assert missing == []
