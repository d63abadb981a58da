"""Tokens and passwords cut out of what is printed and written."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

CUT = "***"
_NAMES = r"(?:token|secret|passw|credential|api[_-]?key|access[_-]?key)"
_SECRET = re.compile(_NAMES, re.IGNORECASE)
_AFTER_FLAG = re.compile(
    rf"""(--?[\w.-]*{_NAMES}[\w.-]*['"]?(?:=|,?\s+))(?![\s-])['"]?[^\s'"]+""", re.IGNORECASE
)
# A path that is made of an address has one stroke.
_IN_ADDRESS = re.compile(r"(?<=\w:/)(/?)[^\s/?#]+(?=@)")
_IN_QUERY = re.compile(
    r"([?&][\w.-]*(?:token|secret|passw|key|sig|credential)[\w.-]*=)[^&\s#'\"]+", re.IGNORECASE
)
# As the hub, GitHub and others begin theirs.
_SHAPES = re.compile(r"\b(?:hf_|gh[oprsu]_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{16,}")
_SHORTEST = 8
"""A shorter value of a variable may stand for something else, too."""


def redacted(text: str) -> str:
    """A text without passwords in addresses, without what looks like a token, and without the
    value of any environment variable whose name says that it is a secret (``HF_TOKEN``)."""
    values = {
        value
        for name, value in os.environ.items()
        if _SECRET.search(name) and len(value) >= _SHORTEST and "/" not in value[:1]
    }
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, CUT)
    text = _AFTER_FLAG.sub(rf"\1{CUT}", text)
    text = _IN_ADDRESS.sub(rf"\1{CUT}", text)
    text = _IN_QUERY.sub(rf"\1{CUT}", text)
    return _SHAPES.sub(CUT, text)


def redacted_arguments(arguments: Sequence[str]) -> list[str]:
    """A command's arguments as ``redacted``, and without what follows a flag like ``--token``."""
    kept: list[str] = []
    cut_next = False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        names_secret = flag.startswith("-") and bool(_SECRET.search(flag))
        if cut_next and not argument.startswith("-"):
            argument = CUT
        elif names_secret and equals:
            argument = f"{flag}={CUT}"
        cut_next = names_secret and not equals
        kept.append(redacted(argument))
    return kept
