"""Command-line flags to a dataclass; what is wrong with them is said in one line."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import tyro

from scmd.errors import ScmdError

_WIDTH = "100000"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def parse(arguments: Any, name: str, argv: Sequence[str], **options: Any) -> Any:
    """What ``tyro.cli`` makes of the flags of a command.

    Args:
        arguments: The dataclass.
        name: The command's, without ``scmd``.
        argv: The flags.
        options: Of ``tyro.cli``.

    Raises:
        ScmdError: The flags are not the command's, or a value is not of the flag's type.
        SystemExit: ``--help`` was asked for, and printed.
    """
    said = io.StringIO()
    try:
        with _unbroken_lines(argv), redirect_stderr(said):
            parsed = tyro.cli(arguments, prog=f"scmd {name}", args=list(argv), **options)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise ScmdError(_one_line(said.getvalue(), name)) from None
    sys.stderr.write(said.getvalue())  # warnings
    return parsed


@contextmanager
def _unbroken_lines(argv: Sequence[str]) -> Iterator[None]:
    """Have complaints drawn in a terminal that is wide enough; help, in the one that is there."""
    before = os.environ.get("COLUMNS")
    if not {"-h", "--help"} & set(argv):
        os.environ["COLUMNS"] = _WIDTH
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def _one_line(box: str, name: str) -> str:
    """The first part of the box that tyro draws, and the flag that may have been meant."""
    drawn = _COLOUR.sub("", box).splitlines()
    lines = [line[1:-1] for line in drawn if line.startswith("│")]
    lines = lines or [line[1:] for line in drawn[2:]]  # where the terminal is not for UTF-8
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.strip(" ─-"):
            parts[-1].append(line)
        else:
            parts.append([])
    what = " ".join(line.strip() for line in parts[0] if not line.startswith(" " * 6))
    near = [m[1] for part in parts for line in part if (m := re.match(r" {3,6}(--[\w.-]+)", line))]
    more = f"scmd {name} --help lists all flags"
    if what.startswith("Unrecognized options: "):
        given = what.removeprefix("Unrecognized options: ")
        return f"no use for {given!r}. " + (f"Did you mean {near[0]}?" if near else more)
    what = _WRONG_NUMBER.sub(_number, what)
    what = re.sub(r"^Error parsing ", "", what).rstrip(". ")
    return f"{what[:1].lower()}{what[1:]}. {more}" if what else f"bad arguments. {more}"


_WRONG_NUMBER = re.compile(
    r"^Error parsing (\S+): (?:invalid literal for int\(\) with base 10|"
    r"could not convert string to float): (.*)$"
)


def _number(match: re.Match[str]) -> str:
    kind = "whole number" if "int()" in match[0] else "number"
    return f"{match[1]} {match[2]}: give a {kind}"
